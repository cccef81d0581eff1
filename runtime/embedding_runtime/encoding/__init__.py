"""From what a caller gives to vectors: options, prompts, cutting, batches, results."""
