"""The ladder: how good every graph of a bundle is, in figures that users understand, and what it costs."""
