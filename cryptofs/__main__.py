"""`python -m cryptofs`."""

from .cli import main

main()
