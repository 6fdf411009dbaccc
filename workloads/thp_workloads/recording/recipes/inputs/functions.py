"""`functions.py N FILE`: C of N pairs of functions with loops and switches."""

import random
import sys
from pathlib import Path

n = int(sys.argv[1])
rng = random.Random(1)
parts = ["#include <stdio.h>", "#include <string.h>"]
for i in range(n):
    cases = "".join(
        f"case {c}: s = s * {rng.randrange(3, 99)} + a[i * {rng.randrange(3, 50)} % n] - (s >> {rng.randrange(1, 9)}); "
        f"if (s % {rng.randrange(2, 99)} == 0) s ^= k * {rng.randrange(99)}; break;\n"
        for c in range(7)
    )
    parts.append(f"static int f{i}(int *a, int n, int k) {{ int s = {i}; for (int i = 0; i < n; i++) "
                 f"switch ((a[i] + k) % 7) {{ {cases} }} return s; }}")  # fmt: skip
    parts.append(f"int g{i}(int *a, int n) {{ char b[64]; int r = 0; for (int k = 0; k < {i % 13 + 2}; k++) {{ "
                 f"r += f{max(0, i - 1)}(a, n, k) + f{i}(a, n, k * 3); snprintf(b, 64, \"%d\", r); r += strlen(b); }} "
                 f"return r; }}")  # fmt: skip
calls = "".join(f"s += g{i}(a, 64);" for i in range(n))
parts.append(f'int main(void) {{ int a[64] = {{1, 2, 3}}; long s = 0; {calls} printf("%ld", s); return 0; }}')
Path(sys.argv[2]).write_text("\n".join(parts))
