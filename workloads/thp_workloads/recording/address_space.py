"""The recorded process's address space: which region of the program lies at which address of the client."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np

from thp_env.machine.layout import PAGE_SIZE

HIDDEN = -1
"""The region of what valgrind itself brings into the process."""
FEW = 8
"""Pages are looked up one by one where a table of all pieces would have so many times more rows."""


@dataclass(frozen=True)
class Piece:
    """A range of client addresses that belongs to one region.

    Attributes:
        start: first client address.
        end: client address after the last.
        region: the region's number, or `HIDDEN`.
        offset: where in its region the piece begins, in bytes.
        native: where it would lie in a native run without randomization.
        anonymous: memory whose pages are recorded: private and anonymous, copied from a file, or `shared`.
        shared: shared anonymous memory.
    """

    start: int
    end: int
    region: int
    offset: int
    native: int
    anonymous: bool
    shared: bool = False

    def clip(self, start: int, end: int) -> Piece:
        """Return the part of the piece within [start, end)."""
        start, end = max(start, self.start), min(end, self.end)
        ahead = start - self.start
        return replace(self, start=start, end=end, offset=self.offset + ahead, native=self.native + ahead)

    @property
    def length(self) -> int:
        """Bytes."""
        return self.end - self.start


class AddressSpace:
    """Pieces by client address."""

    def __init__(self) -> None:
        """Start empty."""
        self._pieces: list[Piece] = []
        self._starts: list[int] = []
        self._removals: list[Piece] = []
        self._table: tuple[np.ndarray, ...] | None = None

    def parts(self, start: int, end: int) -> list[Piece]:
        """Return what lies in [start, end), clipped, by address."""
        first = max(0, bisect_right(self._starts, start) - 1)
        pieces = []
        for at in range(first, len(self._pieces)):
            piece = self._pieces[at]
            if piece.start >= end:
                break
            if piece.end > start:
                pieces.append(piece.clip(start, end))
        return pieces

    def remove(self, start: int, end: int) -> list[Piece]:
        """Take [start, end) out and return what lay there."""
        removed = self.parts(start, end)
        if not removed:
            return removed
        first = max(0, bisect_right(self._starts, start) - 1)
        if self._pieces[first].end <= start:
            first += 1
        last = bisect_right(self._starts, end - 1)
        left, right = self._pieces[first], self._pieces[last - 1]
        remainders = [left.clip(left.start, start)] if left.start < start else []
        remainders += [right.clip(end, right.end)] if right.end > end else []
        self._pieces[first:last] = remainders
        self._starts[first:last] = [piece.start for piece in remainders]
        self._removals.extend(removed)
        self._table = None
        return removed

    def add(self, piece: Piece) -> None:
        """Put a piece where nothing lies."""
        at = bisect_right(self._starts, piece.start)
        self._pieces.insert(at, piece)
        self._starts.insert(at, piece.start)
        self._table = None

    def native_of(self, address: int) -> int:
        """Return the native address that a client address stands for.

        An address in no piece is looked up among the pieces that are gone, the latest first, and right after
        the pieces; failing that it is taken for an address that the program chose by itself.
        """
        for piece in self.parts(address, address + 1):
            return piece.native
        for piece in reversed(self._removals):
            if piece.start <= address < piece.end:
                return piece.native + address - piece.start
        for piece in self._pieces:
            if piece.end == address:
                return piece.native + piece.length
        return address

    def translate(self, pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Translate client page numbers.

        Args:
            pages: page numbers, shape (n,).

        Returns:
            The region of each, int64, `HIDDEN` where none is known or it is not anonymous; and its page
            number within the region, int64.
        """
        if self._table is None and FEW * len(pages) < len(self._pieces):
            return self._translate_few(pages)
        if self._table is None:
            rows = [(p.start, p.end, p.region if p.anonymous else HIDDEN, p.offset) for p in self._pieces]
            start, end, region, offset = np.array(rows, dtype=np.int64).reshape(-1, 4).T
            self._table = start // PAGE_SIZE, end // PAGE_SIZE, region, offset // PAGE_SIZE
        start, end, region, offset = self._table
        pages = pages.astype(np.int64)
        if not len(start):
            return np.full(len(pages), HIDDEN), pages
        at = np.maximum(np.searchsorted(start, pages, side="right") - 1, 0)
        inside = (pages >= start[at]) & (pages < end[at])
        return np.where(inside, region[at], HIDDEN), pages - start[at] + offset[at]

    def _translate_few(self, pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        regions, numbers = np.full(len(pages), HIDDEN), pages.astype(np.int64)
        for i, page in enumerate(numbers.tolist()):
            piece = self._pieces[max(0, bisect_right(self._starts, page * PAGE_SIZE) - 1)]
            numbers[i] += (piece.offset - piece.start) // PAGE_SIZE
            if piece.anonymous and piece.start <= page * PAGE_SIZE < piece.end:
                regions[i] = piece.region
        return regions, numbers
