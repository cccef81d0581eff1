"""ONNX Runtime and LiteRT: sessions, and files prepared for each."""
