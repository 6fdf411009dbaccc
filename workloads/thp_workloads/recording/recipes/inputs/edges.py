"""`edges.py N FILE`: a graph of N nodes that prefers those with many edges, in the language of Graphviz."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
ends = [0, 1, 2]
lines = ["graph {"]
for node in range(3, n):
    for other in {rng.choice(ends) for _ in range(3)}:
        lines.append(f"{node} -- {other}")
        ends += [node, other]
Path(sys.argv[2]).write_text("\n".join([*lines, "}"]) + "\n")
