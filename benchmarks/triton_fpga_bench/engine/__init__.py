"""The engine against its peers: `triton-fpga bench engine`."""
