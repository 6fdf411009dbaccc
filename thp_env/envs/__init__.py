"""The Gymnasium environments, one file each, and their common parts."""
