"""Published rules, one file each."""
