"""`build.py N FUNCTIONS`: a Makefile with N files of C, each compiled by a process of its own, $(CC)."""

import random
import sys
from pathlib import Path

n, functions = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(1)
for i in range(n):
    body = "".join(f"int f{i}_{k}(int x) {{ return x * {rng.randrange(99)} + {k}; }}\n" for k in range(functions))
    Path(f"part{i}.c").write_text("#include <stdio.h>\n#include <stdlib.h>\n" + body)
parts = " ".join(f"part{i}.o" for i in range(n))
Path("Makefile").write_text(f"all: {parts}\n%.o: %.c\n\t$(CC) -c $< -o $@\n")
