"""Turns the caller's texts into vectors: options, prompts, overflow, batches, results."""
