"""What the LangChain and LlamaIndex adaptors are made of."""
