"""What every engine stands on: OpenCL drivers and devices, memory, onnxruntime's parts, processes."""
