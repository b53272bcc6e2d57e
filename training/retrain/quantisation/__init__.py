"""From torch to a quantised ONNX file."""
