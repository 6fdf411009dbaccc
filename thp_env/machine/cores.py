"""TLB presets of real cores.

Each parameter says whether a source gives it or it is assumed. Walk caches and walk penalties are seldom
published; if they are assumed, the default stands here once. `docs/explanation/tlb.md` says how an entry is
found.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields

Geometry = tuple[int, int]

ABSENT: Geometry = (1, 0)
"""No such array: larger pages are held in smaller pieces."""

LINE_SHIFT = 6
"""log2 of a line of the caches, as `Tlb.nested_shift`."""

NONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Tlb:
    """Geometry of the data TLB of one core. Arrays are (sets, ways); (1, n) is fully associative.

    Attributes:
        name: the preset's name.
        l1_4k: the first level for 4K pages.
        l1_2m: the same for 2M pages; None: they share `l1_4k`.
        l2: the second level, for 4K and 2M pages; None: there is none.
        pwc: the page-walk caches of PDEs, PDPTEs and PML4Es; no ways: absent.
        l2_hit_cycles: cycles of a first-level miss that hits the second level.
        walk_cycles: cycles of one reference at PGD, PUD, PMD and PTE.
        l1_1g: the first level for 1G pages; None: they share `l1_2m`; `ABSENT`: held as 2M pages.
        l2_2m: the second level for 2M pages; None: they share `l2`; `ABSENT`: it does not hold them whole.
        l2_1g: the same for 1G pages.
        coalesce: PTEs in one entry when they map an aligned, physically contiguous run with the same bits; 1: never.
        contpte: whether an entry can hold 64K, that is 16 PTEs with arm64's contiguous bit.
        replacement: "lru" or "plru" (a binary tree) in the first level, the second and the walk caches.
        hashed: sets are chosen by a hash, so that they need not be a power of two.
        asids: address spaces that keep their translations across context switches; 0: all of them.
        base_shift: log2 of the smallest page.
        nested: the TLB of guest-physical addresses under a hypervisor; `ABSENT`: no hypervisor.
        nested_shift: log2 of the host's page, 12 or 21; with 6, `nested` is the lines of page tables that caches hold.
        nested_cycles: cycles of translating one guest-physical address, or of reading one line, that it does not hold.
        sources: for each of these, "sourced: ..." or "assumed: ...".
    """

    name: str
    l1_4k: Geometry
    l1_2m: Geometry | None
    l2: Geometry | None
    pwc: tuple[Geometry, ...] = ((1, 32), (1, 4), (1, 4))
    l2_hit_cycles: int = 7
    walk_cycles: tuple[int, int, int, int] = (5, 8, 14, 30)
    l1_1g: Geometry | None = None
    l2_2m: Geometry | None = None
    l2_1g: Geometry | None = None
    coalesce: int = 1
    contpte: bool = False
    replacement: tuple[str, str, str] = ("lru", "lru", "lru")
    hashed: bool = False
    asids: int = 0
    base_shift: int = 12
    nested: Geometry = ABSENT
    nested_shift: int = 21
    nested_cycles: int = 40
    sources: dict[str, str] = field(default_factory=dict, hash=False, compare=False)

    @property
    def longest_walk(self) -> int:
        """Cycles of a walk that no cache shortens."""
        nested = 0 if self.nested == ABSENT else (len(self.walk_cycles) + 1) * self.nested_cycles
        return sum(self.walk_cycles) + nested

    def arrays_of_sizes(self) -> tuple[list[int], list[int]]:
        """Return, for each level, which of the core's six arrays holds each of its five page sizes."""
        l1_2m = 1 if self.l1_2m else 0
        l2 = 3 if self.l2 else NONE
        l2_2m = 4 if self.l2_2m else l2
        wholes = []
        for small, large, own, huge, geometry in (
            (0, l1_2m, self.l1_2m, 2, self.l1_1g),
            (l2, l2_2m, self.l2_2m, 5, self.l2_1g),
        ):
            large = NONE if own == ABSENT else large
            gigantic = NONE if geometry == ABSENT else huge if geometry else large
            coalesced, contpte_array = (small if enabled else NONE for enabled in (self.coalesce > 1, self.contpte))
            wholes.append([small, coalesced, contpte_array, large, gigantic])
        return wholes[0], wholes[1]

    def config(self) -> dict[str, object]:
        """Return the part of a machine's configuration that describes the TLB.

        Raises:
            ValueError: naming the parameter that makes no sense.
        """
        if self.coalesce < 1 or self.coalesce & (self.coalesce - 1) or self.coalesce > 16:
            raise ValueError(f"coalesce={self.coalesce}: it must be 1, 2, 4, 8 or 16 PTEs")
        if len(self.pwc) != 3:
            raise ValueError(f"pwc has {len(self.pwc)} walk caches: PDEs, PDPTEs and PML4Es are three")
        if set(self.replacement) - {"lru", "plru"} or len(self.replacement) != 3:
            raise ValueError(f"replacement={self.replacement}: it is 'lru' or 'plru' for each of three")
        arrays = (self.l1_4k, self.l1_2m, self.l1_1g, self.l2, self.l2_2m, self.l2_1g)
        tree = [self.replacement[kind] == "plru" for kind in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
        l1_of_size, l2_of_size = self.arrays_of_sizes()
        return {
            "arrays": [a or ABSENT for a in arrays],
            "l1_of_size": l1_of_size,
            "l2_of_size": l2_of_size,
            "pwc": list(self.pwc),
            "coalesced_order": self.coalesce.bit_length() - 1,
            "plru": sum(1 << array for array, bit in enumerate(tree) if bit),
            "hashed": int(self.hashed),
            "nr_asids": self.asids,
            "l2_hit_cycles": self.l2_hit_cycles,
            "walk_cycles": list(self.walk_cycles),
            "nested_shift": 0 if self.nested == ABSENT else self.nested_shift,
            "nested_cycles": self.nested_cycles,
            "nested": self.nested,
        }  # fmt: skip


_NO_2M = "assumed: 2M pages share the array of 4K pages"
_ASSUMED = {
    "l2_hit_cycles": "assumed: 7 cycles",
    "walk_cycles": "assumed: upper levels from L1/L2, PTEs mostly from L2/L3",
    "pwc": "assumed: 32 PDEs, 4 PDPTEs, 4 PML4Es, fully associative",
    "l1_2m": _NO_2M,
    "l1_1g": "assumed: 1G pages share the array of 2M pages",
    "l2_2m": _NO_2M,
    "l2_1g": "assumed: 1G pages share the array of 2M pages",
    "coalesce": "assumed: none",
    "contpte": "assumed: no contiguous bit on this architecture",
    "replacement": "assumed: LRU; real cores approximate it",
    "hashed": "assumed: sets are chosen by the low bits of the page number",
    "asids": "assumed: enough for every process",
    "base_shift": "sourced: the architecture's smallest page",
    "nested": "assumed: no hypervisor, and page tables in the caches",
    "nested_shift": "assumed: the host uses 2M pages",
    "nested_cycles": "assumed: three references, mostly from L2",
}  # fmt: skip
_X86 = _ASSUMED | {
    "asids": "sourced: Linux, arch/x86/include/asm/tlbflush.h, TLB_NR_DYN_ASIDS = 6",
    "contpte": "sourced: x86 has no contiguous bit",
}
_ZEN = _X86 | {
    "l1_2m": "sourced: AMD optimization guide, family 17h: the first level holds all sizes",
    "l1_1g": "sourced: AMD optimization guide, family 17h: the first level holds all sizes",
    "l2_1g": "sourced: AMD optimization guide, family 17h: 1G pages are smashed into 2M entries",
    "coalesce": "assumed: 4 PTEs, 16K; AMD says that Zen coalesces PTEs, not under which conditions",
}
_ARM = _ASSUMED | {
    "contpte": "sourced: Arm TRMs of the A76: first and second level hold 64K",
    "asids": "sourced: Arm ARM D8.16: 8 or 16 bits",
    "l1_1g": "sourced: Arm TRM of the A76: the first level holds no 1G; its 512M pieces are 2M here",
    "coalesce": "assumed: 4 PTEs, as the A76",
}


def _core(
    name: str, l1: Geometry, l2: Geometry | None, base: dict[str, str], own: dict[str, str], **more: object
) -> Tlb:
    return Tlb(name, l1, more.pop("l1_2m", None), l2, sources={**base, **own}, **more)  # type: ignore[arg-type]


def _intel(name: str, l1: Geometry, l2: Geometry, l1_1g: Geometry, own: dict[str, str]) -> Tlb:
    return _core(name, l1, l2, _X86, own, l1_2m=(8, 4), l1_1g=l1_1g, l2_1g=(4, 4), asids=6)


def _zen(name: str, l1: int, l2: Geometry, own: dict[str, str]) -> Tlb:
    return _core(name, (1, l1), l2, _ZEN, own, l2_1g=ABSENT, coalesce=4, asids=6)


def _arm(name: str, l1: int, l2: Geometry, own: dict[str, str], **more: object) -> Tlb:
    return _core(name, (1, l1), l2, _ARM, own, **{"l1_1g": ABSENT, "coalesce": 4, "contpte": True, **more})


_A76 = {
    "l1_4k": "sourced: Arm TRM of the A76: 48 entries, fully associative",
    "l1_2m": "sourced: Arm TRM of the A76: one array for 4K, 16K, 64K, 2M, 512M",
    "l2": "sourced: Arm TRM of the A76: 1280 entries, 5-way", "l2_2m": "sourced: Arm TRM of the A76: all block sizes",
    "l2_1g": "sourced: Arm TRM of the A76: all block sizes",
    "l2_hit_cycles": "sourced: Arm TRM of the A76: three cycles",
    "coalesce": "sourced: Arm TRM of the A76, table A6-31: an entry may hold four contiguous pages",
}  # fmt: skip

CORES = {
    core.name: core
    for core in (
        _intel("skylake", (16, 4), (128, 12), (1, 4), {
            "l1_4k": "sourced: Intel optimization manual: 64 entries, 4-way", "l1_2m": "assumed: 32 entries, 4-way",
            "l1_1g": "sourced: Intel optimization manual: 4 entries",
            "l2": "sourced: Intel optimization manual: 1536 entries; WikiChip: 12-way, 4K and 2M",
            "l2_2m": "sourced: WikiChip: 4K and 2M share it", "l2_1g": "assumed: 16 entries, 4-way"}),
        _intel("golden-cove", (16, 6), (128, 16), (1, 8), {
            "l1_4k": "assumed: loads, 96 entries, 6-way", "l1_2m": "assumed: loads, 32 entries, 4-way",
            "l1_1g": "assumed: loads, 8 entries, fully associative", "l2": "assumed: 2048 entries, 16-way",
            "l2_2m": "assumed: 4K and 2M share it", "l2_1g": "assumed: 16 entries, 4-way, as Skylake"}),
        _zen("zen2", 64, (256, 8), {
            "l1_4k": "sourced: AMD optimization guide, family 17h: 64 entries, fully associative",
            "l2": "assumed: 2048 entries 8-way; the AMD guide says 2048 and 12-way, which is no number of sets",
            "l2_2m": "sourced: AMD optimization guide, family 17h: 4K and 2M share it"}),
        _zen("zen3", 64, (256, 8), {
            "l1_4k": "assumed: 64 entries, fully associative", "l2": "assumed: 2048 entries, 8-way"}),
        _zen("zen4", 72, (256, 12), {
            "l1_4k": "assumed: 72 entries, fully associative; a pointer chase shows the knee",
            "l2": "assumed: 3072 entries, 12-way; a pointer chase shows the knee"}),
        _zen("zen5", 96, (256, 16), {
            "l1_4k": "sourced: AMD at Hot Chips 2024: 96 entries; assumed: fully associative",
            "l2": "sourced: AMD at Hot Chips 2024: 4096 entries; assumed: 16-way",
            "l2_1g": "sourced: AMD at Hot Chips 2024: everything but 1G"}),
        _arm("cortex-a55", 16, (256, 4), {
            "l1_4k": "sourced: Arm TRM: 16 entries, fully associative", "l2": "sourced: Arm TRM: 1024 entries, 4-way",
            "contpte": "assumed: as the A76", "l1_1g": "assumed: as the A76", "coalesce": "assumed: none",
            "pwc": "sourced: Arm TRM: 64 entries, 4-way, used here for PMDs; assumed: the upper levels",
            }, pwc=((16, 4), (1, 4), (1, 4)), coalesce=1),
        _arm("cortex-a76", 48, (256, 5), _A76, l2_hit_cycles=3),
        _arm("cortex-a78", 32, (256, 4), {
            "l1_4k": "assumed: 32 entries, fully associative", "l2": "assumed: 1024 entries, 4-way"}),
        _arm("cortex-x1", 40, (256, 8), {
            "l1_4k": "sourced: Arm TRM: 40 entries, fully associative", "l2": "assumed: 2048 entries, 8-way"}),
        _arm("cortex-x2", 48, (256, 8), {
            "l1_4k": "sourced: Arm TRM: 48 entries, fully associative", "l2": "assumed: 2048 entries, 8-way"}),
        _arm("neoverse-n1", 48, (256, 5), {
            "l1_4k": "assumed: 48 entries, fully associative; used by a paper on Elastic Translations",
            "l2": "assumed: 1280 entries, 5-way; used by the same paper"}),
        _arm("neoverse-n2", 44, (256, 5), {
            "l1_4k": "assumed: 44 entries, fully associative", "l2": "assumed: 1280 entries, 5-way"}),
        _arm("neoverse-v1", 40, (256, 8), {
            "l1_4k": "assumed: 40 entries, fully associative", "l2": "assumed: 2048 entries, 8-way"}),
        _arm("neoverse-v2", 48, (256, 8), {
            "l1_4k": "assumed: 48 entries, fully associative", "l2": "assumed: 2048 entries, 8-way"}),
        _arm("apple-m1", 160, (256, 12), {
            "l1_4k": "assumed: 160 entries, fully associative, of 16K", "l2": "assumed: 3072 entries, 12-way",
            "coalesce": "assumed: none", "contpte": "assumed: not used with 16K pages",
            "base_shift": "sourced: 16K pages"}, base_shift=14, coalesce=1, contpte=False),
        _core("u74", (1, 40), (512, 1), _ASSUMED, {
            "l1_4k": "assumed: 40 entries, fully associative", "l2": "assumed: 512 entries, direct-mapped",
            "l2_2m": "assumed: the second level holds 4K only", "l2_1g": "assumed: the second level holds 4K only",
            "walk_cycles": "assumed: as the others, with four levels instead of the three of Sv39",
            "contpte": "assumed: no Svnapot"}, l2_2m=ABSENT, l2_1g=ABSENT),
    )
}  # fmt: skip
"""Presets by name."""

DEFAULT_CORE = "zen4"

PARAMETERS = tuple(f.name for f in fields(Tlb) if f.name not in ("name", "sources"))
"""What each preset gives a source for."""


def core(name: str) -> Tlb:
    """Return a preset.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if name not in CORES:
        near = difflib.get_close_matches(name, CORES, 1, 0.0)
        raise ValueError(f"unknown core {name!r}; did you mean {near[0]!r}? There are {', '.join(CORES)}")
    return CORES[name]
