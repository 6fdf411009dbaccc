"""`transport.py N FILE`: goods between N plants and N markets, with fixed costs on half of the ways, as a program."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
ways = [(i, j, rng.randint(1, 99)) for i in range(n) for j in range(n)]
lines = ["Minimize", " cost:"]
lines += [f" + {c} x{i}_{j}" + (f" + {5 * c} y{i}_{j}" if (i + j) % 2 else "") for i, j, c in ways]
lines.append("Subject To")
for i in range(n):
    lines.append(f" s{i}: " + " + ".join(f"x{i}_{j}" for j in range(n)) + f" <= {100 + i % 7}")
for j in range(n):
    lines.append(f" d{j}: " + " + ".join(f"x{i}_{j}" for i in range(n)) + f" >= {90 + j % 5}")
lines += [f" l{i}_{j}: x{i}_{j} - 100 y{i}_{j} <= 0" for i, j, _ in ways if (i + j) % 2]
lines += ["Binary", *(f" y{i}_{j}" for i, j, _ in ways if (i + j) % 2), "End"]
Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
