"""ONNX graphs: written, and read back."""
