"""Random trace programs: any operation anywhere, also where nothing is mapped."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from thp_env.machine import layout
from thp_env.traces import Program, ProgramBuilder

PAGE, PMD = layout.PAGE_SIZE, layout.PMD_SIZE
REGION_PAGES = 1536
"""Three 2M blocks."""
MAX_REGIONS, MAX_PROCESSES = 9, 4
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150, derandomize=True)
"""For tests that run machines: the same examples every time."""

# Edges of blocks are where rules differ, so most ranges start and end there.
_edges = st.one_of(
    st.sampled_from([0, 1, 4, 15, 16, 17, 255, 256, 511, 512, 513, 768, 1024, 1535]),
    st.integers(0, REGION_PAGES - 1),
)
_lengths = st.one_of(st.sampled_from([1, 3, 4, 16, 64, 512, 1024]), st.integers(1, REGION_PAGES))


@st.composite
def _range(draw) -> tuple[int, int]:
    start = draw(_edges)
    return start * PAGE, min(draw(_lengths), REGION_PAGES - start) * PAGE


class RandomProgram(ProgramBuilder):
    """A program that may fail anywhere (run it with go_on=True); operations are drawn one by one."""

    def __init__(self, seed: int) -> None:
        super().__init__("random", seed=seed, checked=False)
        self.brk("heap", 0)

    def random(self, draw: Callable, kind: str) -> None:
        """Add an operation of one of `KINDS` or `SHARED`, with all else about it drawn."""
        regions = list(self._regions)
        region = draw(st.sampled_from(regions))
        offset, length = draw(_range())
        name = f"r{len(regions)}"
        match kind:
            case "mmap" | "map_over" | "mremap" if len(regions) >= MAX_REGIONS:
                self.munmap(region, offset, length)
            case "mmap":
                at = draw(st.sampled_from(["slot", "auto"]))
                how = draw(st.sampled_from(["", "", "", "file", "shared", "nohugepage"]))
                shift = draw(st.sampled_from([0, 0, PAGE, 4 * PAGE, 16 * PAGE])) if at == "slot" else 0
                self.mmap(name, REGION_PAGES * PAGE, at=at, offset=shift, **{how: True} if how else {})
            case "map_over":
                self.mmap(name, length, at=(region, offset))
            case "mremap":
                at = draw(st.sampled_from(["slot", "auto"]))
                shift = draw(st.sampled_from([0, PAGE])) if at == "slot" else 0
                size = length if at == "slot" else draw(st.sampled_from([length, PMD, 2 * PMD, 4 * PAGE]))
                self.mremap(region, offset, length, name, size, at=at, slot_offset=shift)
            case "brk":
                self.brk("heap", draw(st.sampled_from([0, PAGE, PMD, 3 * PMD])))
            case "munmap" | "mlock" | "munlock" | "split":
                getattr(self, kind)(region, offset, length)
            case "mprotect":
                self.mprotect(region, offset, length, draw(st.sampled_from(["none", "r", "rw"])))
            case "advise":
                self.advise(region, offset, length, draw(st.sampled_from(sorted(layout.ADVICE))))
            case "collapse":
                self.advise(region, offset, length, "collapse")
            case "touch":
                how = draw(st.sampled_from(layout.TOUCH))
                self.touch(region, offset, length, how, draw(st.sampled_from([PAGE, 16 * PAGE, PMD])))
            case "access":
                pattern = draw(st.sampled_from(["uniform", "zipf", "chase", "stride"]))
                count, write = draw(st.integers(1, 200)), draw(st.sampled_from([0, 0.5]))
                weight = draw(st.sampled_from([1, 1, 50]))
                self.access(region, offset, length, pattern, count, write=write, weight=weight)
            case "orders":
                self.orders(region, offset, length, draw(st.integers(0, layout.ORDERS_ALL)) & layout.ORDERS_ALL)
            case "thp":
                self.thp(draw(st.sampled_from(layout.THP_KILOBYTES)), draw(st.sampled_from(layout.THP_MODES)))
            case "set":
                self.set("use_zero_page", draw(st.integers(0, 1)))
            case "prctl":
                self.prctl(draw(st.integers(0, 1)), draw(st.sampled_from([0, 2])))
            case "shrink" | "compact" | "reclaim" | "unpin":
                getattr(self, kind)()
            case "khugepaged":
                self.khugepaged(1)
            case "compute":
                self.compute(1000)
            case "pollute":
                self.pollute(draw(st.sampled_from([0.05, 0.34, 1.0])))
            case "fragment":
                self.fragment(draw(st.integers(1, layout.MAX_PAGE_ORDER)), draw(st.sampled_from([0.1, 0.5, 1.0])))
            case "defrag":
                self.set("defrag", draw(st.sampled_from(layout.DEFRAG_MODES)))
            case "fork" if len(self.processes) < MAX_PROCESSES:
                self.fork(f"C{len(self.processes)}")
            case "exit" | "fork":
                self.exit(draw(st.sampled_from(self.processes)))
            case "collapse":
                self.collapse(region, offset, length, draw(st.sampled_from(layout.THP_KILOBYTES)))
            case "process_madvise":
                ranges = [(region, offset, length)] * draw(st.integers(1, 3))
                target, advice = draw(st.sampled_from(self.processes)), draw(st.sampled_from([*layout.ADVICE]))
                self.process_madvise(target, advice, ranges)
            case "capdrop":
                self.capdrop("sys_nice")
            case "pin":
                self.pin(region, offset, min(length, 64 * PAGE))
            case "limit":
                self.limit(draw(st.sampled_from([64 * PAGE, 512 * PAGE, PMD, layout.NO_LIMIT])))
            case "swapoff":
                self.swapoff()
                self.swap(1 << 20)
            case "batches":
                self.autodrain(draw(st.sampled_from(["on", "off"])))


KINDS = (
    ["touch"] * 5 + ["advise"] * 4 + ["munmap", "mprotect", "mremap", "split", "access"] * 2
    + ["mmap", "map_over", "brk", "mlock", "munlock", "orders", "thp", "set", "prctl", "shrink", "khugepaged",
       "compute", "pollute", "fragment", "compact", "defrag", "collapse", "process_madvise", "capdrop"]
)  # fmt: skip


SHARED = ["fork", "exit", "reclaim", "pin", "unpin", "limit", "swapoff", "batches"]
"""What only programs with several processes do."""


@st.composite
def programs(draw, operations: int = 20, forks: bool = False) -> Program:
    """Return a `RandomProgram`. With `forks` up to four processes run it, on a machine with swap."""
    b = RandomProgram(draw(st.integers(0, 9)))
    for kilobytes in draw(st.sets(st.sampled_from(layout.THP_KILOBYTES))):
        b.thp(kilobytes, "always")
    if forks:
        b.swap(draw(st.sampled_from([1 << 20, 32 << 20])))
    for _ in range(2):
        b.random(draw, "mmap")
    for _ in range(draw(st.integers(1, operations))):
        b.process = draw(st.sampled_from(b.processes))
        b.random(draw, draw(st.sampled_from(KINDS + 2 * SHARED if forks else KINDS)))
    return b.build()
