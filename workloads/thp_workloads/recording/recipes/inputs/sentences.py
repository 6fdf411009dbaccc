"""`sentences.py N FILE`: N sentences of words that are drawn by Zipf's law, each near its topic."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
vocabulary = 120_000
with Path(sys.argv[2]).open("w") as file:
    for _ in range(int(sys.argv[1])):
        topic = rng.randrange(200)
        draws = (min(vocabulary - 1, int(rng.paretovariate(0.6)) * 200 + topic) for _ in range(14))
        file.write(" ".join(f"w{d}" for d in draws) + "\n")
