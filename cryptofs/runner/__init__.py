"""`cryptofs run`: programs that use AF_ALG or /dev/crypto run unchanged where the kernel has neither."""
