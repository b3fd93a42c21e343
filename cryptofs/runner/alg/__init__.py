"""AF_ALG's sockets as a program sees them: the bound one, and the operations of each type."""
