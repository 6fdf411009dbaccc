"""How well the pages of the recorded process compress."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_workloads.recording._lackey import Lackey

CHUNK_PAGES = 512
"""A range of pages whose class may differ from its region's."""
CHUNK_SAMPLES = 4
CHUNK_DIFFERENCE = 20
DEFAULT_CLASS = 50


def compressed_percentage(page: bytes) -> int:
    """Return 0 for a page of zeros, else the size to which zlib (level 1) compresses it, 1 to 100 percent."""
    if not any(page):
        return 0
    return min(100, max(1, round(100 * len(zlib.compress(page, 1)) / len(page))))


class ContentSampler:
    """Reads random written pages of the process while it runs."""

    def __init__(self, pid: int, pages: int = 48) -> None:
        """Open the memory of process `pid`; `sample` will read `pages` pages each time."""
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        self._pages = pages
        self.samples: list[tuple[int, int, int]] = []
        """(instruction, client page, percentage)"""

    def sample(self, log: Lackey) -> None:
        """Compress some pages that the log says are written by now."""
        for page in log.written_pages(self._pages, len(self.samples) + 1):
            try:
                data = os.pread(self._memory, PAGE_SIZE, page * PAGE_SIZE)
            except OSError:
                continue  # unmapped meanwhile: the process runs a little ahead of its log
            if len(data) == PAGE_SIZE:
                self.samples.append((log.instructions, page, compressed_percentage(data)))

    def close(self) -> None:
        """Close the process's memory."""
        os.close(self._memory)


@dataclass
class ContentClasses:
    """Content classes of regions: a multiple of 10 for each region, and for chunks that differ from it."""

    _pages: dict[int, list[np.ndarray]] = field(default_factory=dict)
    _percentages: dict[int, list[np.ndarray]] = field(default_factory=dict)
    _tables: dict[int, tuple[int, dict[int, int]]] = field(default_factory=dict)
    _default: int = DEFAULT_CLASS

    def add(self, region: np.ndarray, page: np.ndarray, percentage: np.ndarray) -> None:
        """Add samples: region numbers, pages within the regions, percentages."""
        for number in np.unique(region[region >= 0]):
            in_region = region == number
            self._pages.setdefault(int(number), []).append(page[in_region])
            self._percentages.setdefault(int(number), []).append(percentage[in_region])

    def finish(self) -> None:
        """Turn the samples into classes."""
        everything = [p for parts in self._percentages.values() for p in parts]
        if everything:
            self._default = _class(np.concatenate(everything))
        for region, parts in self._percentages.items():
            percentages, chunks = np.concatenate(parts), np.concatenate(self._pages[region]) // CHUNK_PAGES
            default = _class(percentages)
            different = {}
            for chunk in np.unique(chunks):
                inside = percentages[chunks == chunk]
                if len(inside) >= CHUNK_SAMPLES and abs(_class(inside) - default) >= CHUNK_DIFFERENCE:
                    different[int(chunk)] = _class(inside)
            self._tables[region] = default, different

    def of(self, region: np.ndarray, page: np.ndarray) -> np.ndarray:
        """Return the class of each page, uint8."""
        by_region = np.full(int(region.max(initial=-1)) + 2, self._default, np.uint8)  # the last one: no region
        for number, (default, _) in self._tables.items():
            if number < len(by_region) - 1:
                by_region[number] = default
        result = by_region[region]
        for number, (_, different) in self._tables.items():
            if different:
                in_region = region == number
                for chunk, content in different.items():
                    result[in_region & (page // CHUNK_PAGES == chunk)] = content
        return result


def _class(percentages: np.ndarray) -> int:
    median = float(np.median(percentages))
    return 0 if median == 0 else max(10, min(100, round(median / 10) * 10))
