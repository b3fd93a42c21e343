"""Formats of files that the daemon and the client both write and read."""
