"""Subcommands of ``triton-fpga`` that this package brings."""
