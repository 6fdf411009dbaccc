"""Random trace programs: any operation anywhere, also where nothing is mapped."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from thp_env.machine import layout
from thp_env.traces import Program, ProgramBuilder

PAGE, PMD = layout.PAGE_SIZE, layout.PMD_SIZE
REGION_PAGES = 1536
"""Three 2M blocks."""
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


def _line(draw, b: ProgramBuilder, regions: list[str]) -> None:
    kind = draw(st.sampled_from(KINDS))
    region = draw(st.sampled_from(regions))
    offset, length = draw(_range())
    match kind:
        case "mmap" | "map_over" | "mremap" if len(regions) > 7:
            b.shrink()
        case "mmap":
            at = draw(st.sampled_from(["slot", "auto"]))
            file, nohuge = draw(st.sampled_from([(False, False)] * 4 + [(True, False), (False, True)]))
            shift = draw(st.sampled_from([0, 0, PAGE, 16 * PAGE])) if at == "slot" else 0
            name = f"r{len(regions)}"
            b.mmap(name, REGION_PAGES * PAGE, at=at, offset=shift, file=file, nohugepage=nohuge)
            regions.append(name)
        case "map_over":
            b.mmap(f"r{len(regions)}", length, at=(region, offset))
            regions.append(f"r{len(regions)}")
        case "mremap":
            at = draw(st.sampled_from(["slot", "auto"]))
            shift = draw(st.sampled_from([0, PAGE])) if at == "slot" else 0
            size = length if at == "slot" else draw(st.sampled_from([length, PMD, 2 * PMD, 4 * PAGE]))
            b.mremap(region, offset, length, f"r{len(regions)}", size, at=at, slot_offset=shift)
            regions.append(f"r{len(regions)}")
        case "brk":
            b.brk("heap", draw(st.sampled_from([0, PAGE, PMD, 3 * PMD])))
        case "munmap" | "mlock" | "munlock" | "split":
            getattr(b, kind)(region, offset, length)
        case "mprotect":
            b.mprotect(region, offset, length, draw(st.sampled_from(["none", "r", "rw"])))
        case "advise":
            b.advise(region, offset, length, draw(st.sampled_from(sorted(layout.ADVICE))))
        case "touch":
            how = draw(st.sampled_from(layout.TOUCH))
            b.touch(region, offset, length, how, draw(st.sampled_from([PAGE, 16 * PAGE, PMD])))
        case "access":
            pattern = draw(st.sampled_from(["uniform", "zipf", "chase", "stride"]))
            b.access(region, offset, length, pattern, draw(st.integers(1, 200)), write=draw(st.sampled_from([0, 0.5])))
        case "orders":
            b.orders(region, offset, length, draw(st.integers(0, layout.ORDERS_ALL)) & layout.ORDERS_ALL)
        case "thp":
            b.thp(draw(st.sampled_from(layout.THP_KILOBYTES)), draw(st.sampled_from(layout.THP_MODES)))
        case "set":
            b.set("use_zero_page", draw(st.integers(0, 1)))
        case "prctl":
            b.prctl(draw(st.integers(0, 1)), draw(st.sampled_from([0, 2])))
        case "shrink":
            b.shrink()
        case "khugepaged":
            b.khugepaged(1)
        case "compute":
            b.compute(1000)
        case "pollute":
            b.pollute(draw(st.sampled_from([0.05, 0.34, 1.0])))
        case "fragment":
            b.fragment(draw(st.integers(1, layout.MAX_PAGE_ORDER)), draw(st.sampled_from([0.1, 0.5, 1.0])))
        case "compact":
            b.compact()
        case "defrag":
            b.set("defrag", draw(st.sampled_from(layout.DEFRAG_MODES)))


KINDS = (
    ["touch"] * 5 + ["advise"] * 4 + ["munmap", "mprotect", "mremap", "split", "access"] * 2
    + ["mmap", "map_over", "brk", "mlock", "munlock", "orders", "thp", "set", "prctl", "shrink", "khugepaged",
       "compute", "pollute", "fragment", "compact", "defrag"]
)  # fmt: skip


SHARED = ["fork", "exit", "reclaim", "pin", "unpin", "limit", "swapoff", "batches"]
"""What only programs with several processes do."""


@st.composite
def programs(draw, operations: int = 20, forks: bool = False) -> Program:
    """Return a program that may fail anywhere: run it with go_on=True. With `forks` up to four processes run
    it, on a machine with swap."""
    b = ProgramBuilder("random", seed=draw(st.integers(0, 9)), checked=False)
    for kilobytes in draw(st.sets(st.sampled_from(layout.THP_KILOBYTES))):
        b.thp(kilobytes, "always")
    if forks:
        b.swap(draw(st.sampled_from([1 << 20, 32 << 20])))
    b.brk("heap", 0)
    regions = ["heap"]
    for _ in range(2):
        name = f"r{len(regions)}"
        file = draw(st.sampled_from(["", "", "", "file", "shared"]))
        offset = draw(st.sampled_from([0, 0, 4 * PAGE]))
        b.mmap(name, REGION_PAGES * PAGE, offset=offset, **{file: True} if file else {})
        regions.append(name)
    for _ in range(draw(st.integers(1, operations))):
        if forks:
            b.process = draw(st.sampled_from(b.processes))
            step = draw(st.sampled_from(["line"] * 12 + SHARED))
            if step == "fork" and len(b.processes) < 4:
                b.fork(f"C{len(b.processes)}")
            elif step == "reclaim":
                b.reclaim()
            elif step == "pin":
                offset, length = draw(_range())
                b.pin(draw(st.sampled_from(regions)), offset, min(length, 64 * PAGE))
            elif step == "unpin":
                b.unpin()
            elif step == "limit":
                b.limit(draw(st.sampled_from([64 * PAGE, 512 * PAGE, PMD, layout.NO_LIMIT])))
            elif step == "swapoff":
                b.swapoff()
                b.swap(1 << 20)
            elif step == "batches":
                b.autodrain(draw(st.sampled_from(["on", "off"])))
            elif step == "exit":
                b.exit(draw(st.sampled_from(b.processes)))
        _line(draw, b, regions)
    return b.build()
