"""Parts of a bundle's manifest."""
