"""Ways to reach a model: gRPC, HTTP, or this process."""
