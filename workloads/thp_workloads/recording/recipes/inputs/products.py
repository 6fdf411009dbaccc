"""`products.py N FILE`: N equations between products and sums of 32-bit vectors, as SMT-LIB."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
lines = ["(set-logic QF_BV)"] + [f"(declare-fun x{i} () (_ BitVec 32))" for i in range(40)]
for i in range(n):
    lines.append(f"(assert (= (bvmul x{i % 40} x{(i * 7 + 1) % 40}) "
                 f"(bvadd x{(i + 3) % 40} #x{rng.randrange(1 << 32):08x})))")  # fmt: skip
Path(sys.argv[2]).write_text("\n".join([*lines, "(check-sat)"]) + "\n")
