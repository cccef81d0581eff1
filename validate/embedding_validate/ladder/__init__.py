"""The ladder: what every graph of a bundle is worth, by figures that mean something, and what it costs."""
