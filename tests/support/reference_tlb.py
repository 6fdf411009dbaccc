"""A slow TLB and page walker, written with dictionaries from the manuals and with nothing from the core.

Intel SDM vol. 3, 4.10 (TLBs, paging-structure caches, invalidation), AMD APM vol. 2, 5.5, Arm ARM D8.7 (contiguous
bit) and D8.16. Where manuals leave room, `docs/explanation/tlb.md` says what was chosen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from thp_env.machine.cores import ABSENT, Geometry, Tlb

LEVELS = {39: "pgd", 30: "pud", 21: "pmd", 12: "pte"}


class Lru:
    """A set-associative cache; each set an ordered dictionary of keys, the oldest first."""

    def __init__(self, sets: int, ways: int) -> None:
        self.ways = ways
        self.sets: list[OrderedDict] = [OrderedDict() for _ in range(sets)]

    def get(self, number: int, key: object) -> object:
        entries = self.sets[number % len(self.sets)]
        if key in entries:
            entries.move_to_end(key)
        return entries.get(key)

    def fill(self, number: int, key: object, value: object = True) -> None:
        entries = self.sets[number % len(self.sets)]
        if len(entries) == self.ways:
            entries.popitem(last=False)
        entries[key] = value

    def drop(self, gone: Callable[[object], bool]) -> None:
        for entries in self.sets:
            for key in [key for key in entries if gone(key)]:
                del entries[key]


class Plru:
    """The same with a binary tree: each node remembers which half was not used last. Free ways fill first."""

    def __init__(self, sets: int, ways: int) -> None:
        self.ways = ways
        self.sets = [([None] * ways, {}) for _ in range(sets)]

    def _use(self, nodes: dict[tuple[int, int], int], way: int) -> None:
        low, high = 0, self.ways
        while high - low > 1:
            middle = (low + high) // 2
            right = way >= middle
            nodes[low, high] = 0 if right else 1
            low, high = (middle, high) if right else (low, middle)

    def get(self, number: int, key: object) -> object:
        entries, nodes = self.sets[number % len(self.sets)]
        for way, entry in enumerate(entries):
            if entry and entry[0] == key:
                self._use(nodes, way)
                return entry[1]
        return None

    def fill(self, number: int, key: object, value: object = True) -> None:
        entries, nodes = self.sets[number % len(self.sets)]
        low, high = 0, self.ways
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if nodes.get((low, high)) else (low, middle)
        way = entries.index(None) if None in entries else low
        entries[way] = (key, value)
        self._use(nodes, way)

    def drop(self, gone: Callable[[object], bool]) -> None:
        for entries, _ in self.sets:
            entries[:] = [None if entry and gone(entry[0]) else entry for entry in entries]


@dataclass
class Pte:
    """A page-table entry that maps an address: a PTE (shift 12), a PMD (21) or a PUD (30)."""

    shift: int = 12
    frame: int = 0
    writable: bool = True
    young: bool = True
    dirty: bool = True
    contiguous: bool = False

    def bits(self) -> tuple[bool, ...]:
        return self.writable, self.young, self.dirty, self.contiguous


class Translation(NamedTuple):
    """What an entry holds: whether it permits writing."""

    write: bool


Key = tuple[int, int, int]  # page number, log2 of its size, address space


@dataclass
class ReferenceTlb:
    """Two levels; the second sees the first's misses; a walk fills both and the walk caches.

    Attributes:
        tlb: the geometry.
        mapped: the page-table entry that maps an address of an address space; None: what the caller says.
    """

    tlb: Tlb
    mapped: Callable[[int, int], Pte | None] | None = None
    l1_miss: int = 0
    l2_miss: int = 0
    dirty_assist: int = 0
    flushes: int = 0
    flushed_pages: int = 0
    flushed_spaces: int = 0
    references: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEVELS.values(), 0))
    walk_cycles: int = 0

    def __post_init__(self) -> None:
        t = self.tlb
        kinds = [Plru if kind == "plru" else Lru for kind in t.replacement]
        self.l1 = self._level(kinds[0], t.l1_4k, t.l1_2m, t.l1_1g)
        self.l2 = self._level(kinds[1], t.l2, t.l2_2m, t.l2_1g) if t.l2 else {}
        self.pwc = {shift: kinds[2](*g) for shift, g in zip((21, 30, 39), t.pwc, strict=True) if g[1]}

    def _level(self, kind: type, small: Geometry, large: Geometry | None, huge: Geometry | None) -> dict:
        """Return the array of each page size, by its shift."""
        arrays = {12: kind(*small)}
        if self.tlb.coalesce > 1:
            arrays[12 + self.tlb.coalesce.bit_length() - 1] = arrays[12]
        if self.tlb.contpte:
            arrays[16] = arrays[12]
        if large != ABSENT:
            arrays[21] = kind(*large) if large else arrays[12]
        if huge != ABSENT and (huge or 21 in arrays):
            arrays[30] = kind(*huge) if huge else arrays[21]
        return arrays

    def _find(self, level: dict, address: int, mm: int) -> tuple[Translation, int] | None:
        for shift in sorted(level):
            number = address >> shift
            if found := level[shift].get(number, (number, shift, mm)):
                return found, shift
        return None

    def _fill(self, level: dict, address: int, shift: int, mm: int, value: Translation) -> None:
        """In the largest size that the level holds."""
        if level:
            shift = max(s for s in level if s <= shift)
            level[shift].fill(address >> shift, (address >> shift, shift, mm), value)

    def access(self, address: int, shift: int = 12, *, write: bool = False, mm: int = 0) -> bool:
        """Access a page that is mapped as `mapped` says, or writable and of a size. Return False for a fault."""
        pte = self.mapped(mm, address) if self.mapped else Pte(shift)
        for level, arrays in enumerate((self.l1, self.l2)):
            if not (found := self._find(arrays, address, mm)):
                continue
            translation, size = found
            if write and not translation.write:  # the entry cannot be used: a walk replaces it
                self._drop_page(address, mm)
                if not self._walk(address, pte, mm, write):
                    return False
                self.dirty_assist += 1
            elif level:
                self._fill(self.l1, address, size, mm, translation)
            self.l1_miss += level
            return True
        if not self._walk(address, pte, mm, write):
            return False
        self.l1_miss += 1
        self.l2_miss += 1
        return True

    def _walk(self, address: int, pte: Pte | None, mm: int, write: bool) -> bool:
        """The deepest cached structure saves every reference above it."""
        if pte is None or (write and not pte.writable):
            return False
        levels = [s for s in LEVELS if s >= pte.shift]  # the last one is the translation itself
        start = 0
        for depth in range(len(levels) - 2, -1, -1):
            shift = levels[depth]
            if shift in self.pwc and self.pwc[shift].get(address >> shift, (address >> shift, 0, mm)):
                start = depth + 1
                break
        for depth in range(start, len(levels)):
            self.references[LEVELS[levels[depth]]] += 1
            self.walk_cycles += self.tlb.walk_cycles[depth]
        for shift in reversed(levels[start:-1]):
            if shift in self.pwc:
                self.pwc[shift].fill(address >> shift, (address >> shift, 0, mm))
        pte.young = True
        pte.dirty |= write
        value = Translation(pte.writable and pte.dirty)
        size = self._size(address, pte, mm)
        self._fill(self.l1, address, size, mm, value)
        self._fill(self.l2, address, size, mm, value)
        return True

    def _size(self, address: int, pte: Pte, mm: int) -> int:
        """The page size of the entry that a walk fills: hardware joins PTEs that map one aligned run."""
        if pte.shift > 12:
            return pte.shift
        if pte.contiguous and self.tlb.contpte:
            return 16
        run = self.tlb.coalesce
        if run == 1 or not self.mapped:
            return 12
        first = (address >> 12) // run * run
        group = [self.mapped(mm, (first + i) << 12) for i in range(run)]
        joined = all(
            other and other.bits() == pte.bits() and other.frame == pte.frame // run * run + i
            for i, other in enumerate(group)
        )
        return 12 + run.bit_length() - 1 if joined else 12

    def _drop_page(self, address: int, mm: int) -> None:
        for level in (self.l1, self.l2):
            for array in {id(a): a for a in level.values()}.values():
                array.drop(lambda key: key[2] == mm and key[0] == address >> key[1])

    def _drop_walk_caches(self, mm: int) -> None:
        for array in self.pwc.values():
            array.drop(lambda key: key[2] == mm)

    def invalidate_range(self, start: int, end: int, mm: int = 0, shift: int = 12) -> None:
        """Linux on x86: page by page up to 33, beyond that the address space."""
        if -(-(end - start) >> shift) > 33:
            return self.invalidate_mm(mm)
        self.flushes += 1
        for address in range(start, end, 1 << shift):
            self.flushed_pages += 1
            self._drop_page(address, mm)
            if any(shift not in level for level in (self.l1, self.l2) if level):
                self.forget(mm)  # the page's pieces could be anywhere
        self._drop_walk_caches(mm)

    def invalidate_mm(self, mm: int = 0) -> None:
        self.flushes += 1
        self.flushed_spaces += 1
        self.forget(mm)

    def forget(self, mm: int) -> None:
        for level in (self.l1, self.l2):
            for array in level.values():
                array.drop(lambda key: key[2] == mm)
        self._drop_walk_caches(mm)

    def run(self, addresses: Iterable[int], shift: int = 12) -> ReferenceTlb:
        for address in addresses:
            self.access(int(address), shift)
        return self
