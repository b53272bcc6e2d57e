"""Making and reading jets: generator, detector stand-in, clustering, files."""
