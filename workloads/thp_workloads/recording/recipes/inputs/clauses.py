"""`clauses.py N RATIO FILE`: a random formula of N variables and N times RATIO clauses of three, as DIMACS."""

import random
import sys
from pathlib import Path

n, m = int(sys.argv[1]), int(int(sys.argv[1]) * float(sys.argv[2]))
rng = random.Random(1)
lines = [f"p cnf {n} {m}"]
for _ in range(m):
    lines.append(" ".join(str(v * rng.choice((1, -1))) for v in rng.sample(range(1, n + 1), 3)) + " 0")
Path(sys.argv[3]).write_text("\n".join(lines) + "\n")
