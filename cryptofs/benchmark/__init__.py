"""`cryptofs benchmark`: how fast a mount is, as ratios to floors that are measured in the same run."""
