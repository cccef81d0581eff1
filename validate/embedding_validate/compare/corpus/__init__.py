"""A user's own corpus: read, embedded, and scored."""
