"""`words.py N FILE`: N lines of eight words out of 50,000, some of them much more frequent than others."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
letters = "abcdefghijklmnopqrstuvwxyz"
words = ["".join(rng.choices(letters, k=rng.randrange(2, 10))) for _ in range(50_000)]
often = [words[int(50_000 * rng.random() ** 3)] for _ in range(1 << 18)]
with Path(sys.argv[2]).open("w") as file:
    for first in range(0, n, 10_000):
        drawn = rng.choices(often, k=8 * min(10_000, n - first))
        file.writelines(" ".join(drawn[at : at + 8]) + "\n" for at in range(0, len(drawn), 8))
