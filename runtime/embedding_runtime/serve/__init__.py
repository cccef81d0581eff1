"""The service `embed-text serve`: a bundle behind OpenAI's embeddings protocol."""
