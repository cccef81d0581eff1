"""`compare.json`: the document of a comparison, and the figures derived from it."""
