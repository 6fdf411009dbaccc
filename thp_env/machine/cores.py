"""TLB presets of real cores.

Each parameter says whether a source gives it or it is assumed. Walk caches and walk penalties are seldom
published; where they are assumed, the default is stated here once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tlb:
    """Geometry of the data TLB of one core. All arrays replace least recently used entries.

    Attributes:
        name: the preset's name.
        l1_4k: (sets, ways) of the first level for 4K pages.
        l1_2m: the same for 2M pages; None: they share `l1_4k`.
        l2: (sets, ways) of the second level, for 4K and 2M pages.
        pwc: (sets, ways) of the page-walk caches of PDEs, PDPTEs and PML4Es.
        l2_hit_cycles: cycles of a first-level miss that hits the second level.
        walk_cycles: cycles of one reference at PGD, PUD, PMD and PTE.
        sources: what is sourced and what is assumed.
    """

    name: str
    l1_4k: tuple[int, int]
    l1_2m: tuple[int, int] | None
    l2: tuple[int, int] | None
    pwc: tuple[tuple[int, int], ...] = ((1, 32), (1, 4), (1, 4))
    l2_hit_cycles: int = 7
    walk_cycles: tuple[int, int, int, int] = (5, 8, 14, 30)
    sources: dict[str, str] = field(default_factory=dict, hash=False, compare=False)

    def config(self) -> dict[str, object]:
        """Return the part of a machine's configuration that describes the TLB."""
        arrays = [self.l1_4k, self.l1_2m or (1, 0), self.l2 or (1, 0)]
        none = -1
        return {
            "tlb_arrays": [list(a) for a in arrays],
            "tlb_l1": [0, 1 if self.l1_2m else 0],
            "tlb_l2": [2, 2] if self.l2 else [none, none],
            "tlb_pwc": [list(p) for p in self.pwc],
            "l2_hit_cycles": self.l2_hit_cycles,
            "walk_cycles": list(self.walk_cycles),
        }


ASSUMED = {
    "pwc": "assumed: 32 PDEs, 4 PDPTEs, 4 PML4Es, fully associative",
    "walk_cycles": "assumed: upper levels from L1/L2, PTEs mostly from L2/L3",
    "l2_hit_cycles": "assumed: 7 cycles",
}

CORES = {
    core.name: core
    for core in (
        Tlb("skylake", (16, 4), (8, 4), (128, 12), sources={
            "l1_4k": "Intel optimization manual: 64 entries, 4-way", "l1_2m": "assumed: 32 entries, 4-way",
            "l2": "Intel optimization manual: 1536 entries; assumed: 12-way", **ASSUMED}),
        Tlb("zen2", (1, 64), None, (256, 8), sources={
            "l1_4k": "AMD optimization guide: 64 entries, fully associative, all sizes",
            "l2": "AMD optimization guide: 2048 entries; its 12 ways are 8 here, for a power of two of sets",
            **ASSUMED}),
        Tlb("zen4", (1, 72), None, (256, 12), sources={
            "l1_4k": "assumed: 72 entries, fully associative; a pointer chase shows the knee",
            "l2": "assumed: 3072 entries, 12-way; a pointer chase shows the knee", **ASSUMED}),
        Tlb("cortex-a55", (1, 16), None, (256, 4), pwc=((16, 4), (1, 4), (1, 4)), sources={
            "l1_4k": "Arm TRM: 16 entries, fully associative", "l2": "Arm TRM: 1024 entries, 4-way",
            **ASSUMED, "pwc": "Arm TRM: 64 entries, 4-way, used here for PMDs; upper levels assumed"}),
        Tlb("cortex-a76", (1, 48), None, (256, 5), l2_hit_cycles=3, sources={
            "l1_4k": "Arm TRM: 48 entries, fully associative, all sizes", "l2": "Arm TRM: 1280 entries, 5-way",
            **ASSUMED, "l2_hit_cycles": "Arm TRM: about 3 cycles"}),
        Tlb("neoverse-n1", (1, 48), None, (256, 5), sources={
            "l1_4k": "assumed: 48 entries, fully associative; used by a paper on Elastic Translations",
            "l2": "assumed: 1280 entries, 5-way; used by the same paper", **ASSUMED}),
    )
}  # fmt: skip
"""Presets by name."""

DEFAULT_CORE = "zen4"


def core(name: str) -> Tlb:
    """Return a preset.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if name not in CORES:
        near = difflib.get_close_matches(name, CORES, 1, 0.0)
        raise ValueError(f"unknown core {name!r}; did you mean {near[0]!r}? There are {', '.join(CORES)}")
    return CORES[name]
