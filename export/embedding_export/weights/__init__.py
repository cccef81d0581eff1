"""Weights on their way into a graph: folding, calibration, balancing, quantization."""
