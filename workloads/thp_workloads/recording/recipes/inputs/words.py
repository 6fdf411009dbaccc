"""`words.py N FILE`: N lines of eight words out of 50,000, some of them much more frequent than others."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
letters = "abcdefghijklmnopqrstuvwxyz"
words = ["".join(rng.choices(letters, k=rng.randrange(2, 10))) for _ in range(50_000)]
with Path(sys.argv[2]).open("w") as file:
    for _ in range(int(sys.argv[1])):
        file.write(" ".join(words[int(50_000 * rng.random() ** 3)] for _ in range(8)) + "\n")
