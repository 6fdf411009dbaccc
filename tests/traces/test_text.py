"""The text form: what it says, that it can be written back, and what is refused with file, line and reason."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from support.programs import QUIET, programs

from thp_env.machine import layout
from thp_env.machine.operations import ACCESS_DTYPE, fields
from thp_env.traces import ProgramBuilder, ProgramError, format_program, parse_program
from thp_env.traces.formatting import FORMATS
from thp_env.traces.text import duration, number


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("0x1000", 4096), ("64K", 65536), ("2M", 2 << 20), ("1G", 1 << 30), ("3p", 12288),
     ("2M+4K", (2 << 20) + 4096), ("2M-4K", (2 << 20) - 4096), ("1M-1M", 0), ("0", 0)],
)  # fmt: skip
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "K", "4X", "-4K", "4K-8K", "1.5M", "0xg", "2M+", "++", "4 K", "1e6", "¹"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ProgramError):
        number(text)


@pytest.mark.parametrize(("text", "ns"), [("500", 500), ("0.5", 0.5), ("5us", 5e3), ("10ms", 1e7), ("2s", 2e9)])
def test_durations(text, ns):
    assert duration(text) == ns


@pytest.mark.parametrize("text", ["", "5 us", "-5", "5m", "us", "nan", "inf"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ProgramError):
        duration(text)


VALUES = {"region": "a", "offset": 4096, "length": 8192}


def _is_plain(name: str) -> bool:
    parameters = list(inspect.signature(getattr(ProgramBuilder, name)).parameters.values())[1:]
    return name not in FORMATS and {p.name for p in parameters} == set(VALUES)


PLAIN = [name for name in layout.OPS if _is_plain(name)]
"""Operations on a range and nothing else."""


@pytest.mark.parametrize("name", PLAIN)
def test_an_operation_on_a_range_is_read_as_it_is_written(name: str):
    b = ProgramBuilder("program")
    b.mmap("a", 1 << 20, at="auto")
    getattr(b, name)(**VALUES)
    program = b.build()
    assert [int(fields(program.ops[1])[field]) for field in VALUES] == [0, 4096, 8192]
    assert parse_program(format_program(program)) == program
    assert parse_program(f"mmap a 1M at=auto\n{name} a 4K 8K") == program


def test_one_line_of_each_kind_means_what_the_builder_writes():
    text = """
    # a comment
    seed 7
    thp 64 always   # another
    set use_zero_page 0
    set enabled madvise
    mmap a 4M
    mmap b 64K align=4M offset=4K prot=r
    mmap c 2M at=auto nohugepage=1
    mmap d 8K at=a+4K
    mmap e 8K at=0x7f0000000000 file=1
    mmap s 8K at=auto file=1 shared=1
    brk heap 64K
    advise a 0 4K hugepage
    mprotect a 0 4K none
    mlock a 0 4K
    munlock a 0 4K
    write a 16K 8K
    write a 16K 64K 16K content=9
    fill c 0 8K stride=8K
    read a 16K 4K
    writez a 16K 4K
    access c 0 2M zipf count=10 ns=2 write=0.5 zipf=1.2 weight=3
    access c 0 2M stride count=10 stride=128
    replay ns=0.5 weight=2 a:4:w:3:100 c:0:r:1:7
    munmap a 0 4K
    mremap c 0 4K f
    mremap c 4K 4K g new_length=8K at=auto
    compute 5us
    sleep 2
    slice P
    prctl 1 2
    shrink
    orders a 32K 4K 0x14
    split a 32K 4K
    swap 64M
    reclaim
    khugepaged 3
    limit 8M
    limit max
    cgroup 3
    limit 4M group=3
    reclaim group=3
    swappiness 10 group=3
    swappiness 100
    set defrag defer+madvise
    autodrain off
    drain
    swapoff
    set khugepaged/defrag 0
    pollute 0.34
    fragment 4 0.8
    compact
    fork C
    pin a 32K 4K
    unpin
    iovec a 32K 4K
    iovec a 36K 4K
    process_madvise C pageout
    iovec a 32K 4K
    in C process_madvise P hugepage orders=0x14
    collapse a 32K 64K 64
    capdrop sys_nice
    in P exit P
    """
    b = ProgramBuilder(seed=7)
    b.thp(64, "always")
    b.set("use_zero_page", 0)
    b.set("enabled", "madvise")
    b.mmap("a", 4 << 20)
    b.mmap("b", 65536, align=4 << 20, offset=4096, prot="r")
    b.mmap("c", 2 << 20, at="auto", nohugepage=True)
    b.mmap("d", 8192, at=("a", 4096))
    b.mmap("e", 8192, at=0x7F0000000000, file=True)
    b.mmap("s", 8192, at="auto", shared=True)
    b.brk("heap", 65536)
    b.advise("a", 0, 4096, "hugepage")
    b.mprotect("a", 0, 4096, "none")
    b.mlock("a", 0, 4096)
    b.munlock("a", 0, 4096)
    b.touch("a", 16384, 8192)
    b.touch("a", 16384, 65536, stride=16384, content=9)
    b.touch("c", 0, 8192, "fill", stride=8192)
    b.touch("a", 16384, 4096, "read")
    b.touch("a", 16384, 4096, "writez")
    b.access("c", 0, 2 << 20, "zipf", 10, ns=2, write=0.5, zipf=1.2, weight=3)
    b.access("c", 0, 2 << 20, "stride", 10, stride=128)
    b.replay([(4, 0, 1, 3, 100), (0, 2, 0, 1, 7)], ns=0.5, weight=2)
    b.munmap("a", 0, 4096)
    b.mremap("c", 0, 4096, "f")
    b.mremap("c", 4096, 4096, "g", 8192, at="auto")
    b.compute(5000)
    b.compute(2e6)
    b.slice("P")
    b.prctl(1, 2)
    b.shrink()
    b.orders("a", 32768, 4096, 0x14)
    b.split("a", 32768, 4096)
    b.swap(64 << 20)
    b.reclaim()
    b.khugepaged(3)
    b.limit(8 << 20)
    b.limit(layout.NO_LIMIT)
    b.cgroup(3)
    b.limit(4 << 20, group=3)
    b.reclaim(group=3)
    b.swappiness(10, group=3)
    b.swappiness(100)
    b.set("defrag", "defer+madvise")
    b.autodrain("off")
    b.drain()
    b.swapoff()
    b.set("khugepaged/defrag", 0)
    b.pollute(0.34)
    b.fragment(4, 0.8)
    b.compact()
    b.fork("C")
    b.pin("a", 32768, 4096)
    b.unpin()
    b.process_madvise("C", "pageout", [("a", 32768, 4096), ("a", 36864, 4096)])
    b.iovec("a", 32768, 4096)
    b.process = "C"
    b.process_madvise("P", "hugepage", orders=0x14)
    b.process = "P"
    b.collapse("a", 32768, 65536, 64)
    b.capdrop("sys_nice")
    b.exit("P")
    program = parse_program(text)
    assert program == b.build()
    tested = {layout.OPS[op] for op in program.ops["op"]}
    assert tested | set(PLAIN) == set(layout.OPS), "an operation without a test"


@QUIET
@given(programs())
def test_text_round_trip(program):
    """Zipf tables have no text form; everything else comes back as it was."""
    if len(program.bins):
        with pytest.raises(ProgramError, match="no text form"):
            format_program(program)
        return
    text = format_program(program)
    b = ProgramBuilder(checked=False)
    from thp_env.traces.text import add_line

    for line in text.splitlines()[1:]:
        assert add_line(b, line)
    b.seed = program.seed
    assert b.build() == program


def test_recorded_accesses_round_trip():
    b = ProgramBuilder()
    b.mmap("a", 1 << 20)
    rng = np.random.default_rng(1)
    rows = np.zeros(50, ACCESS_DTYPE)
    for name, high in (("page", 256), ("written", 2), ("count", 1000), ("instructions", 10**6)):
        rows[name] = rng.integers(0, high, 50)
    b.replay(rows[:20], ns=0.25)
    b.replay(rows[20:], weight=9, content=77)
    program = b.build()
    assert parse_program(format_program(program)) == program


BAD = [
    ("frobnicate a 0 4K", "unknown operation 'frobnicate'"),
    ("munmap a 0 -4K", "no number|negative"),
    ("munmap a 0 4K-8K", "negative"),
    ("munmap a 0 0", "positive"),
    ("munmap a 1 4K", "not a multiple of the page size"),
    ("munmap z 0 4K", "unknown region z"),
    ("write a 2M 4K", "a is not mapped at 0x200000"),
    ("write a 1M+1020K 8K", "a is not mapped"),
    ("mmap a 4K", "exists already"),
    ("mmap b", "2 to 4 values"),
    ("mmap b 0", "positive"),
    ("mmap b 3G", "slot holds 2 GiB"),
    ("mmap b 4K at=nowhere", "unknown region nowhere"),
    ("mmap b 4K at=123", "no place"),
    ("mmap b 4K at=a+1", "start at a page"),
    ("mmap b 4K 3M", "power of two"),
    ("mmap b 4K 2M 100", "whole pages"),
    ("set use_zero_page 2", "takes 0 to 1, not 2"),
    ("mmap b 4K prot=x", "unknown protection x"),
    ("mmap b 4K color=red", "unknown value color="),
    ("mmap b 4K stride=4", "stride"),
    ("advise a 0 4K please", "unknown advice please"),
    ("mprotect a 0 4K rwx", "unknown protection rwx"),
    ("write a 0", "takes a region, an offset and a length"),
    ("write a 0 4K 0", "stride must be positive"),
    ("write a 0 4K content=101", "percentage"),
    ("access a 0 4K sideways count=1", "unknown access pattern sideways"),
    ("access a 0 4K uniform", "count"),
    ("access a 0 4K uniform count=-1", "no number|negative"),
    ("access a 0 4K uniform count=1 write=2", "between 0 and 1"),
    ("access a 0 4K uniform count=1 weight=0", "weight must be at least 1"),
    ("access a 0 4K uniform count=1 weight=-1", "no number|negative"),
    ("access a 0 4K uniform count=1 weight=8G", "weight"),
    ("access a 0 32 uniform count=1", "at least 64 bytes"),
    ("access a 0 4K stride count=1 stride=0", "stride must be positive"),
    ("access a 0 4K zipf count=1 zipf=99", "exponent"),
    ("thp 48 always", "no such folio size: 48K"),
    ("thp 64 sometimes", "unknown mode sometimes"),
    ("set nonsense 1", "unknown setting nonsense"),
    ("set enabled perhaps", "perhaps"),
    ("compute -5", "no time"),
    ("slice Q", "unknown process Q"),
    ("in Q shrink", "unknown process Q"),
    ("in P", "followed by an operation"),
    ("orders a 0 4K 2", "orders that do not exist"),
    ("orders a 0 4K x", "x"),
    ("replay a:1:x:1:1", "no recorded access"),
    ("replay q:1:r:1:1", "unknown region q"),
    ("exit Q", "unknown process Q"),
    ("shrink now", "takes 0"),
    ("seed x", "x"),
    ("prctl", "takes 1"),
    ("brk heap -4K", "no number|negative"),
    ("mremap a 0 4K b 3M 0", "power of two"),
    ("mremap a 0 4K a", "exists already"),
    ("split a 1M 8M", "a is not mapped"),
    ("process_madvise P cold", "needs a range"),
    ("process_madvise Q cold", "unknown process Q"),
    ("process_madvise P", "takes 2"),
    ("iovec z 0 4K", "unknown region z"),
    ("iovec a 1 4K", "not a multiple"),
    ("capdrop sys_admin", "unknown capability sys_admin"),
    ("collapse a 0 2M 48", "no such folio size: 48K"),
    ("collapse a 0 8M 64", "a is not mapped"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[line for line, _ in BAD])
def test_malformed_lines_are_refused_with_file_line_and_reason(line, reason):
    with pytest.raises(ProgramError, match=rf"^work\.txt: line 3: .*({reason})") as caught:
        parse_program(f"mmap a 2M\nwrite a 0 4K\n{line}\n", "work.txt")
    assert "\n" not in str(caught.value)


def test_memory_that_was_unmapped_or_moved_is_refused():
    for change in ("munmap a 4K 4K", "mremap a 4K 4K b", "mmap b 4K at=a+4K"):
        with pytest.raises(ProgramError, match="line 3: a is not mapped"):
            parse_program(f"mmap a 64K\n{change}\nwrite a 0 8K\n")


def test_a_heap_follows_its_length():
    parse_program("brk heap 64K\nwrite heap 0 64K\n")
    with pytest.raises(ProgramError, match="line 3: heap is not mapped"):
        parse_program("brk heap 64K\nbrk heap 4K\nwrite heap 0 8K\n")
