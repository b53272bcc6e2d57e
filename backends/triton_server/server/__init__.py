"""One Triton server process: found, assembled, started and stopped."""
