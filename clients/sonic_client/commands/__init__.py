"""Subcommands of `triton-fpga` that belong to the client."""
