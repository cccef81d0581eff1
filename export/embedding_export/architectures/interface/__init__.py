"""The interface of every architecture: its figures, its tensors, and the steps of its forward pass."""
