"""What every architecture is described in: its figures, its tensors, and the steps of its forward pass."""
