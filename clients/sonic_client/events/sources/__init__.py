"""One module for each kind of file that events are read from."""
