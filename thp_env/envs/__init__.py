"""The Gymnasium environments, one file each, and what they share."""
