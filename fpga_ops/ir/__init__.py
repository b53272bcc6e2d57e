"""The integer network: its data, its definition in numpy, and its constants."""
