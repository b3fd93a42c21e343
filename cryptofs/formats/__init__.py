"""Formats that several layers read: the sealed file, padding, and the URI of an object in a token."""
