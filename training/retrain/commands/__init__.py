"""The subcommands data, train, evaluate and quantise of `triton-fpga`."""
