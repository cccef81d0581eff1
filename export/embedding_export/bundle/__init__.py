"""What a bundle holds: graphs, golden vectors, descriptions, and the files beside them."""
