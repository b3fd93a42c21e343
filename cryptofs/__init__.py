"""cryptofs: the Linux kernel's cryptography, for every program that can open a file."""

__version__ = "0.1.0"
