"""The checkpoint's tokenizer: trimmed, built into a table, and checked."""
