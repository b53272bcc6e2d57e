"""Subcommands of `triton-fpga` that belong to the overlay: emulator, predict, explore, build."""
