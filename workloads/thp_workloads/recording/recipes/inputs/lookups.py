"""`lookups.py N`: N lookups by bisection in a sorted grid, and the rows of a table that they lead to; compiled."""

import sys

import numba
import numpy as np


@numba.njit
def lookups(n: int, rows: int) -> float:
    """Sum what random lookups find."""
    np.random.seed(1)
    table, grid = np.random.rand(rows, 6), np.sort(np.random.rand(rows))
    total = 0.0
    for _ in range(n):
        x = np.random.rand()
        low, high = 0, rows - 1
        while low < high - 1:
            middle = (low + high) // 2
            if grid[middle] < x:
                low = middle
            else:
                high = middle
        for j in range(6):
            total += table[low, j] * x + table[low * 7919 % rows, j]
    return total


print(lookups(int(sys.argv[1]), int(sys.argv[1]) // 2))
