"""Documents embedded by one bundle, queries by another: what mixing them costs a search."""
