"""Leshy of Elastic Translations: as few large entries as possible with which the TLB covers its misses.

cslab-ntua/elastic-translations, etutils-rs leshy.rs (Psomadakis et al., MICRO 2024). Sampled TLB misses give histograms
at 4K, 64K and 2M. Leshy first looks for the smallest size with which the hottest entries, as many as the TLB has, cover
the target share of the samples. Then it looks for a mix of sizes with fewer of the largest entries that still covers
the share. So hot regions get large entries, and other regions smaller ones. A region with samples in only one smaller
entry is never enlarged. The source also uses 32M, which needs arm64's contiguous PMDs.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import ALL_2M, Block, Timer, inside, occupied_blocks
from thp_agents.policy import Policy
from thp_agents.view import KernelView

SIZES = (4 << 10, 64 << 10, 2 << 20)
"""Of the entries, in bytes."""

Region = tuple[int, int, int]
"""(mm, start, size) of an entry."""


def histogram(samples: Counter[tuple[int, int]], size: int) -> Counter[tuple[int, int]]:
    """Return how many samples, by (mm, address), fall into each entry of a size."""
    out: Counter[tuple[int, int]] = Counter()
    for (mm, address), count in samples.items():
        out[mm, address // size * size] += count
    return out


def _descending(counts: Counter[tuple[int, int]]) -> list[tuple[tuple[int, int], int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def mix(samples: Counter[tuple[int, int]], entries: int, target: float = 1.0, slack: float = 0.0) -> list[Region]:
    """Return the entries to make: of several sizes, none of 4K.

    Args:
        samples: how often each (mm, address) missed.
        entries: of the TLB.
        target: share of the samples to cover.
        slack: share of entries that there may be more.
    """
    goal = target * sum(samples.values())
    if not samples:
        return []
    level = next((i for i, size in enumerate(SIZES) if _coverage(histogram(samples, size), entries) >= goal),
                 len(SIZES) - 1)  # fmt: skip
    return [r for r in _search(samples, level, int(entries * (1 + slack)), goal) if r[2] > SIZES[0]]


def _coverage(counts: Counter[tuple[int, int]], entries: int) -> int:
    return sum(count for _, count in _descending(counts)[:entries])


def _search(samples: Counter[tuple[int, int]], level: int, room: int, goal: float) -> list[Region]:
    """Return entries of this size and below: as few of this size as cover what is wanted with the room."""
    size = SIZES[level]
    by_count = _descending(histogram(samples, size))
    if level == 0:
        return [(mm, start, size) for (mm, start), _ in by_count[:room]]
    subs = Counter((mm, start // size * size) for mm, start in histogram(samples, SIZES[level - 1]))
    large = [(key, count) for key, count in by_count if subs[key] > 1][:room]
    low, high = 0, len(large)
    while low < high:  # more large entries never cover less, so the least number is found by halving
        middle = (low + high) // 2
        if _reach(samples, level, large[:middle], room, goal):
            high = middle
        else:
            low = middle + 1
    starts = {key for key, _ in large[:low]}
    uncovered = Counter({(mm, a): n for (mm, a), n in samples.items() if (mm, a // size * size) not in starts})
    covered = sum(count for _, count in large[:low])
    below = _search(uncovered, level - 1, room - low, goal - covered) if uncovered else []
    return [(mm, start, size) for mm, start in sorted(starts)] + below


def _reach(
    samples: Counter[tuple[int, int]], level: int, large: list[tuple[tuple[int, int], int]], room: int, goal: float
) -> bool:
    size, starts = SIZES[level], {key for key, _ in large}
    uncovered = Counter({(mm, a): n for (mm, a), n in samples.items() if (mm, a // size * size) not in starts})
    below = _coverage(histogram(uncovered, SIZES[level - 1]), room - len(large))
    return sum(count for _, count in large) + below >= goal


class Leshy(Policy):
    """Collects misses over epochs, and collapses or enables sizes by the mix.

    A hint of 2M collapses the block. Hints of 64K, which the simulated kernel can only follow at faults, give their
    VMA 64K.

    Args:
        epoch_ms: an epoch.
        history: epochs that count.
        entries: of the TLB (the source's constant, Neoverse N1's second level).
        hints: most 2M blocks collapsed in an epoch, as many as khugepaged could.
        period: page walks between two samples.
    """

    name = "leshy"
    source = "Elastic Translations: Psomadakis et al., MICRO 2024; etutils-rs, leshy.rs"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 100.0}  # noqa: RUF012

    def __init__(
        self, epoch_ms: float = 2000, history: int = 2, entries: int = 1280, hints: int = 64, period: int = 2003
    ) -> None:
        """Make the policy."""
        self.epoch, self.epochs = Timer(epoch_ms), history
        self.entries, self.hints, self.period = entries, hints, period

    def reset(self, view: KernelView) -> None:
        """Begin without samples."""
        view.sample_walks(self.period)
        self.history: deque[Counter[tuple[int, int]]] = deque([Counter()], maxlen=self.epochs)
        self.epoch.begin(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Gather samples; follow the mix when an epoch is over."""
        for sample in view.walk_samples():
            page = int(sample["address"]) // SIZES[0] * SIZES[0]
            self.history[-1][int(sample["mm"]), page] += int(sample["count"])
        if self.epoch.due(view):
            self.follow(view, mix(sum(self.history, Counter()), self.entries))
            self.history.append(Counter())
        return view.no_op

    def follow(self, view: KernelView, regions: list[Region]) -> None:
        """Carry out hints, those of 2M in their order."""
        small = {block for block, _, huge in occupied_blocks(view) if not huge}
        hints = [Block(mm, start) for mm, start, size in regions if size == SIZES[2]]
        for block in [b for b in hints if b in small][: self.hints]:
            view.collapse(block.mm, block.start, block.end)
        for vma in view.vmas():
            first, last = inside(vma)
            huge = sum(b.mm == vma.mm and first <= b.start < last for b in hints)
            middle = sum(
                mm == vma.mm and vma.start <= start < vma.end for mm, start, size in regions if size == SIZES[1]
            )
            mask = ALL_2M if huge and 32 * huge >= middle else 1 << 4 if middle else 0
            if mask and mask != vma.orders:
                view.set_orders(vma.mm, vma.start, vma.end, mask)
