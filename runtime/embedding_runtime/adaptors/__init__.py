"""The parts of the LangChain and LlamaIndex adaptors."""
