"""Text to token ids: from the compact table, or by the tokenizers library."""
