"""What a person may want to see of a model: summary, picture, comparison with onnxruntime."""
