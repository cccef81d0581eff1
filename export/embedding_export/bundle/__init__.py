"""The contents of a bundle: graphs, golden vectors, descriptions, and the files beside them."""
