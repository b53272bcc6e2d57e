"""Keeps a Triton server serving without a human."""
