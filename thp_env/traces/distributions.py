"""Distributions over the pages of a range, as alias tables of integers (Walker 1977; Vose 1991).

The machine draws from them with integers only, so the same program gives the same accesses everywhere.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from thp_env.machine.operations import BIN_DTYPE
from thp_env.machine.program_check import ProgramError

BINS_PER_OCTAVE = 16
PAGES_MAX = 1 << 32
"""A bin notes its first page in 32 bits."""
EXACT = 1 << 25
"""Ranks whose weights are added up one by one: 128 GiB of pages. What follows is an integral, to 12 digits the same."""
SIGMA_MIN = 1e-9
"""Below, the weights of all bins are 0 in float64."""


@lru_cache(maxsize=512)
def alias_table(pattern: str, pages: int, exponent: float, center: float, sigma: float, scatter: bool) -> np.ndarray:
    """Return the alias table of a Zipf or Gaussian distribution over `pages` pages.

    Ranks are binned: exactly for the first 32 ranks, then 16 bins an octave with the bin's exact weight and
    a uniform choice inside it.

    Args:
        pattern: "zipf" or "gauss".
        pages: number of pages.
        exponent: weight of rank k is k ** -exponent ("zipf").
        center: middle as a share of the range ("gauss").
        sigma: standard deviation as a share of the range ("gauss").
        scatter: whether the machine permutes ranks over the pages ("zipf").
    """
    if pages >= PAGES_MAX:
        raise ProgramError(f"a {pattern} distribution covers less than 16 TiB")
    if pattern == "zipf":
        if not 0 <= exponent <= 10:
            raise ProgramError("the Zipf exponent must lie between 0 and 10")
        edges = _octave_edges(pages)
        weights = _zipf_weights(edges, exponent)
    else:
        if not (0 <= center <= 1 and SIGMA_MIN <= sigma <= 10):
            raise ProgramError(f"center must lie in 0..1 and sigma in {SIGMA_MIN:g}..10")
        edges = np.unique(np.linspace(0, pages, min(pages, 256) + 1).astype(np.int64))
        middle = (edges[:-1] + edges[1:]) / 2 / pages
        logs = -0.5 * ((middle - center) / sigma) ** 2
        weights = np.exp(logs - logs.max()) * np.diff(edges)  # a narrow island may lie between two middles
        weights += weights.sum() * 1e-12
        scatter = False
    table = np.zeros(len(weights), BIN_DTYPE)
    table["first"], table["count"], table["scatter"] = edges[:-1], np.diff(edges), scatter
    table["threshold"], table["alias"] = _vose(weights)
    table.flags.writeable = False
    return table


def _zipf_weights(edges: np.ndarray, exponent: float) -> np.ndarray:
    """Return the sum of the weights of the ranks between each two edges."""
    exact = int(np.searchsorted(edges, EXACT, "right"))
    ranks = np.arange(1, edges[exact - 1] + 1, dtype=np.float64)
    weights = np.add.reduceat(ranks**-exponent, edges[: exact - 1])
    ends = edges[exact - 1 :] + 0.5  # the midpoint rule: rank k stands for k - 1/2 to k + 1/2
    if exponent == 1:
        return np.append(weights, np.diff(np.log(ends)))
    return np.append(weights, np.diff(ends ** (1 - exponent)) / (1 - exponent))


def _octave_edges(pages: int) -> np.ndarray:
    edges = list(range(min(pages, 32)))
    edge = 32.0
    while edge < pages:
        edges.append(int(edge))
        edge *= 2 ** (1 / BINS_PER_OCTAVE)
    return np.unique(np.array([*edges, pages], dtype=np.int64))


def _vose(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's method; thresholds in units of 2**-32."""
    n = len(weights)
    scaled = (weights * (n / weights.sum())).tolist()
    small = [i for i in range(n) if scaled[i] < 1]
    large = [i for i in range(n) if scaled[i] >= 1]
    threshold, alias = [1.0] * n, list(range(n))
    while small and large:
        s, g = small.pop(), large.pop()
        threshold[s], alias[s] = scaled[s], g
        scaled[g] -= 1 - scaled[s]
        (small if scaled[g] < 1 else large).append(g)
    fixed = np.round(np.array(threshold) * 2**32).astype(np.uint64)
    return fixed, np.array(alias, dtype=np.uint32)
