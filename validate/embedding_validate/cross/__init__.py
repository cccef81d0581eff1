"""Documents embedded by one bundle, queries by another: how much mixing them costs a search."""
