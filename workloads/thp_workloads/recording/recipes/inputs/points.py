"""`points.py N FILE`: N points of two noisy classes in 60 dimensions, for libsvm."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
lines = []
for k in range(int(sys.argv[1])):
    side = 1 if k % 2 else -1
    point = [rng.gauss(0.25 * side if d % 3 == 0 else 0, 1) for d in range(60)]
    lines.append(f"{side} " + " ".join(f"{d + 1}:{x:.4f}" for d, x in enumerate(point)))
Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
