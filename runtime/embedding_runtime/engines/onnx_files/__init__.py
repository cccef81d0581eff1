"""ONNX files read and changed without the onnx package: tables taken out, links followed, 4 bits made 8."""
