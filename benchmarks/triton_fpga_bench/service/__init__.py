"""The measurements of the service: `triton-fpga bench service`."""
