"""A slow two-level TLB and page walker, written with dictionaries and nothing from the core."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from thp_env.machine.cores import Tlb


class Lru:
    """A set-associative cache of page numbers; each set an ordered dictionary, oldest first."""

    def __init__(self, sets: int, ways: int) -> None:
        self.ways = ways
        self.sets = [OrderedDict() for _ in range(sets)]

    def hit(self, number: int, key: object = None) -> bool:
        entries, key = self.sets[number % len(self.sets)], (number, key)
        if key not in entries:
            return False
        entries.move_to_end(key)
        return True

    def fill(self, number: int, key: object = None) -> None:
        entries = self.sets[number % len(self.sets)]
        if len(entries) == self.ways:
            entries.popitem(last=False)
        entries[(number, key)] = None

    def clear(self) -> None:
        for entries in self.sets:
            entries.clear()


@dataclass
class ReferenceTlb:
    """Both levels LRU; the second sees the first's misses; a walk fills both and the walk caches."""

    tlb: Tlb
    l1_miss: int = 0
    l2_miss: int = 0
    references: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("pgd", "pud", "pmd", "pte"), 0))
    walk_cycles: int = 0

    def __post_init__(self) -> None:
        self.l1 = {12: Lru(*self.tlb.l1_4k)}
        self.l1[21] = Lru(*self.tlb.l1_2m) if self.tlb.l1_2m else self.l1[12]
        self.l2 = Lru(*self.tlb.l2) if self.tlb.l2 else None
        self.pwc = {shift: Lru(*g) for shift, g in zip((21, 30, 39), self.tlb.pwc, strict=True)}

    def access(self, address: int, shift: int = 12) -> None:
        number = address >> shift
        if self.l1[shift].hit(number, shift):
            return
        self.l1_miss += 1
        if not (self.l2 and self.l2.hit(number, shift)):
            self.l2_miss += 1
            self._walk(address, shift)
            if self.l2:
                self.l2.fill(number, shift)
        self.l1[shift].fill(number, shift)

    def _walk(self, address: int, shift: int) -> None:
        """The deepest cached structure saves every reference above it."""
        levels = {39: "pgd", 30: "pud", 21: "pmd", 12: "pte"}
        entries = [s for s in (39, 30, 21, 12) if s >= shift]  # the last one is the translation itself
        start = 0
        for depth in range(len(entries) - 2, -1, -1):
            if self.pwc[entries[depth]].ways and self.pwc[entries[depth]].hit(address >> entries[depth]):
                start = depth + 1
                break
        for depth in range(start, len(entries)):
            self.references[levels[entries[depth]]] += 1
            self.walk_cycles += self.tlb.walk_cycles[depth]
            if depth < len(entries) - 1 and self.pwc[entries[depth]].ways:
                self.pwc[entries[depth]].fill(address >> entries[depth])

    def run(self, addresses: Iterable[int], shift: int = 12) -> ReferenceTlb:
        for address in addresses:
            self.access(int(address), shift)
        return self
