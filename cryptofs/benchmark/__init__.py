"""`cryptofs benchmark`: the speed of a mount, as ratios to floors that are measured in the same run."""
