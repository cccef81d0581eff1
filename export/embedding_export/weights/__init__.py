"""Prepares weights for a graph: folding, calibration, balancing, quantization."""
