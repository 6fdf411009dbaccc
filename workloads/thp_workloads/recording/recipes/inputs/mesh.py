"""`mesh.py N FILE`: a mesh of N by N resistors and capacitors that diodes and sources drive, for ngspice."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
lines = ["mesh", ".model d d(is=1e-14)"]
for i in range(n):
    for j in range(n):
        here = f"n{i}_{j}"
        lines.append(f"c{i}_{j} {here} 0 {rng.uniform(1, 9):.3f}p")
        if i + 1 < n:
            lines.append(f"ra{i}_{j} {here} n{i + 1}_{j} {rng.randint(100, 999)}")
        if j + 1 < n:
            lines.append(f"rb{i}_{j} {here} n{i}_{j + 1} {rng.randint(100, 999)}")
        if rng.random() < 0.2:
            lines.append(f"d{i}_{j} {here} 0 d")
for i in range(0, n, 8):
    lines.append(f"v{i} n{i}_0 0 pulse(0 1 {i}n 1n 1n 20n 60n)")
lines += [".tran 1n 40n", ".end"]
Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
