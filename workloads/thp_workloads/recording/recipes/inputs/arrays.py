"""`arrays.py N`: N by N matrices solved, multiplied and transformed; arrays sorted and gathered from at random."""

import sys

import numpy as np

n = int(sys.argv[1])
rng = np.random.default_rng(1)
a = rng.random((n, n))
print(np.linalg.solve(a, a[0])[:2], np.fft.fft2(a).real.sum(), np.linalg.norm(a @ a))
for size in (4, 8, 16):
    b = np.sort(rng.random(n * n * size))
    print(b[rng.integers(0, b.size, b.size // 2)].sum())
