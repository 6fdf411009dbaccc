"""What pages of the documentation are made from, besides the code itself: see build.py."""
