"""A set of half-open integer intervals."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Intervals:
    """Sorted, disjoint, half-open intervals [start, end)."""

    def __init__(self) -> None:
        """Start empty."""
        self._edges: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over (start, end)."""
        return iter(zip(self._edges[::2], self._edges[1::2], strict=True))

    def copy(self) -> Intervals:
        """Return an independent copy."""
        other = Intervals()
        other._edges = self._edges.copy()
        return other

    def _replace(self, start: int, end: int, inside: bool) -> None:
        edges = self._edges
        left, right = bisect_left(edges, start), bisect_right(edges, end)
        # An even number of edges on the left means that `start` lies outside every interval.
        new = ([start] if (left % 2 == 0) == inside else []) + ([end] if (right % 2 == 0) == inside else [])
        edges[left:right] = new

    def add(self, start: int, end: int) -> None:
        """Add [start, end)."""
        if end > start:
            self._replace(start, end, inside=True)

    def remove(self, start: int, end: int) -> None:
        """Remove [start, end)."""
        if end > start:
            self._replace(start, end, inside=False)

    def clip(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of [start, end) that are in the set, in order."""
        edges = self._edges
        at = bisect_right(edges, start)
        parts = []
        for i in range(at - at % 2, len(edges), 2):
            if edges[i] >= end:
                break
            parts.append((max(start, edges[i]), min(end, edges[i + 1])))
        return parts

    def covers(self, start: int, end: int) -> bool:
        """Whether all of [start, end) is in the set."""
        at = bisect_right(self._edges, start)
        return at % 2 == 1 and self._edges[at] >= end
