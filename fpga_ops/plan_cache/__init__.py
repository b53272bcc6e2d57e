"""Compiled plans kept on disk, by content."""
