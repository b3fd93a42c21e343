"""The stress program: hostile clients on a real mount, the parser, a daemon that is killed; run by scripts/stress."""
