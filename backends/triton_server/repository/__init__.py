"""The model repository: what may be loaded, what a version is made of, and its known answers."""
