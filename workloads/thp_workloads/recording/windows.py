"""The windows in which accesses were sampled: which of them count how often, and how wrong that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thp_workloads.recording._lackey import model_misses

RUN_DTYPE = np.dtype([("instruction", "<u8"), ("page", "<u8"), ("count", "<u4"), ("written", "<u4")])
"""Merged accesses to one client page, as the log reader keeps them; count 0: see `Windows`."""


NEIGHBOURS = 8
"""A window is represented by one of so many recorded windows before it, or after it."""
MOST_GROUPS = 1 << 17
"""More windows than this are weighed in groups."""
CLOSE = 0.005
"""How far a total may be off after weighing, as a share."""


@dataclass(frozen=True)
class Windows:
    """Windows of a recording.

    One of every P / W neighbouring windows of W instructions was recorded. It begins with the pages used last
    before it, which put the TLB in the state it was in and do not count.

    Attributes:
        window: W, instructions.
        kept: numbers of the recorded windows, ascending.
        weight: how many windows each of them stands for, at least 1, int64.
    """

    window: int
    kept: np.ndarray
    weight: np.ndarray

    def of(self, instruction: np.ndarray) -> np.ndarray:
        """Return the number of the window that each instruction lies in."""
        return (instruction // np.uint64(self.window)).astype(np.int64)

    def weights(self, runs: np.ndarray) -> np.ndarray:
        """Return how many real accesses an access of each run, of recorded windows, stands for."""
        weight = self.weight[np.searchsorted(self.kept, self.of(runs["instruction"]))]
        return np.where(runs["count"] > 0, weight, 0)

    def outside(self, instruction: np.ndarray) -> np.ndarray:
        """Return which of these instructions lie in no recorded window."""
        return ~np.isin(self.of(instruction), self.kept)


def weigh(window: int, runs: np.ndarray, begun: np.ndarray, end: tuple[float, float, float]) -> Windows:
    """Let the recorded windows stand for all: each for some of those nearby that resemble it.

    Windows are gone through in order, and what the chosen ones lack or exceed so far counts in the next
    choice, so that the totals come out right although no window has an exact double.

    Args:
        window: W, instructions.
        runs: `RUN_DTYPE`, the recorded accesses.
        begun: what the model TLB had counted when each window began (accesses, first-level misses, walks),
            shape (windows, 3).
        end: the same at the end of the run.
    """
    kept = np.unique((runs["instruction"] // np.uint64(window)).astype(np.int64))
    if not len(kept):
        return Windows(window, kept, kept)
    counts = np.diff(np.vstack([begun, end]), axis=0)
    counts /= np.maximum(counts.mean(axis=0), 1e-9)
    # Of a long run, neighbours share a representative.
    together = -(-len(counts) // MOST_GROUPS)
    others = np.setdiff1d(np.arange(len(counts)), kept)
    first = np.flatnonzero(np.diff(others // together, prepend=-1))
    if not len(first):
        return Windows(window, kept, np.ones(len(kept), np.int64))
    size = np.diff(first, append=len(others))
    mean = np.add.reduceat(counts[others], first, axis=0) / size[:, None]
    middle = others[first + size // 2]
    near = np.searchsorted(kept, middle)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS)
    near = np.clip(near, 0, len(kept) - 1)
    difference = mean[:, None] - counts[kept[near]]
    distance = np.abs(difference).sum(axis=2)
    # Of equals the nearest.
    distance += np.abs(kept[near] - middle[:, None]) * (1e-6 / len(counts))
    weight = np.ones(len(kept), np.int64)
    debts = np.zeros(counts.shape[1])
    for i, n in enumerate(size.tolist()):
        best = np.argmin(distance[i] + np.abs(debts + difference[i] * n).sum(axis=1))
        weight[near[i, best]] += n
        debts += difference[i, best] * n
    return Windows(window, kept, _calibrated(weight, counts[kept], counts.sum(axis=0)))


def _calibrated(weight: np.ndarray, counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Change weights as little as brings their sum and the totals out right.

    The calibration estimator of Deville and Sarndal (1992) with the linear distance, rounded so that sums are kept.
    Totals that the windows cannot bring about (walks that happen in no recorded window) are left as they are.
    """
    for columns in range(counts.shape[1], 0, -1):
        features = np.column_stack([counts[:, :columns], np.ones(len(counts))])
        targets = np.append(totals[:columns], weight.sum())
        result = weight.astype(np.float64)
        for _ in range(4):  # weights below 1 are put back to it
            gram = (features * result[:, None]).T @ features
            share = np.linalg.lstsq(gram, targets - result @ features, rcond=1e-9)[0]
            result = np.clip(result * (1 + features @ share), 1, 4 * weight)
        result = np.maximum(np.diff(np.rint(np.cumsum(result)), prepend=0), 1)
        if np.all(np.abs(result @ features - targets) <= CLOSE * targets):
            return result.astype(np.int64)
    return weight


def without_needless_warmth(window: int, runs: np.ndarray) -> np.ndarray:
    """Drop the pages used last where the window before was recorded too: the TLB knows them."""
    index = runs["instruction"] // np.uint64(window)
    return runs[(runs["count"] > 0) | ~np.isin(index - np.uint64(1), index)]


def sampling_error(
    windows: Windows, runs: np.ndarray, touches: np.ndarray, true: tuple[float, float, float]
) -> dict[str, float]:
    """Compare what the sample says of a 4K TLB with what all accesses say.

    Args:
        windows: the windows.
        runs: `RUN_DTYPE`, the recorded accesses.
        touches: the first touches outside windows, which are replayed without counting, as `RUN_DTYPE`.
        true: accesses, first-level misses and walks of the model TLB fed with every access.

    Returns:
        Relative errors (sample / truth - 1) of "accesses", "l1_misses" and "walks".
    """
    weight = np.concatenate([windows.weights(runs), np.zeros(len(touches))]).astype(np.float64)
    stream = np.concatenate([runs, touches])
    order = np.argsort(stream["instruction"], kind="stable")
    sample_misses = model_misses(stream[order].tobytes(), weight[order].tobytes())
    names = ("accesses", "l1_misses", "walks")
    return {n: round(s / t - 1, 4) if t else 0.0 for n, s, t in zip(names, sample_misses, true, strict=True)}
