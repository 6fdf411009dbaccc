"""The reader of valgrind's logs, the sampled windows and the content classes."""

import os
import shutil

import numpy as np
import pytest
from thp_workloads.recording._lackey import Lackey, model_misses
from thp_workloads.recording.content import ContentClasses, compressed_percentage
from thp_workloads.recording.program_writer import TOUCH_DTYPE, WRITE_BIT
from thp_workloads.recording.replayer import CALL_DTYPE
from thp_workloads.recording.unmapped_area import get_unmapped_area
from thp_workloads.recording.windows import RUN_DTYPE, Windows, weigh, without_needless_warmth

from thp_env.machine import layout
from thp_env.traces.intervals import Intervals

PMD = layout.PMD_SIZE
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

LOG = """I  04001000,3
 S 1fff000788,8
SYSCALL[7,1](12) sys_brk ( 0x0 ) --> [pre-success] Success(0x5000000)\x20
I  04001003,3
SYSCALL[7,1](12) sys_brk ( 0x5003000 ) --> [pre-success] Success(0x5003000)\x20
SYSCALL[7,1](257) sys_openat ( 4294967196, 0x4835540(/lib/a (b).so), 524288 ) --> [async] ...\x20
SYSCALL[7,1](257) ... [async] --> Success(0x4)\x20
SYSCALL[7,1](9) sys_mmap ( 0x0, 8192, 1, 2, 4, 0 ) --> [pre-success] Success(0x6000000)\x20
SYSCALL[7,1](3) sys_close ( 4 )[sync] --> Success(0x0)\x20
SYSCALL[7,1](9) sys_mmap ( 0x0, 12288, 3, 34, 4294967295, 0 ) --> [pre-success] Success(0x7000000)\x20
SYSCALL[7,1](9) sys_mmap ( 0x0, 0, 3, 34, 4294967295, 0 ) --> [pre-fail] Failure(0x16)\x20
I  04001006,12
 L 07000008,8
 L 06000000,8
I  04001009,3
 M 07000008,8
 S 07000ffc,8
 L 05002000,1
SYSCALL[7,1](0) sys_read ( 4, 0x5001000, 832 ) --> [async] ...\x20
SYSCALL[7,1](0) ... [async] --> Success(0x340)\x20
SYSCALL[7,1](28) sys_madvise ( 0x7000000, 4096, 4 ) --> [async] ...\x20
SYSCALL[7,1](28) ... [async] --> Success(0x0)\x20
SYSCALL[7,1](56) sys_clone ( 1200011, 0x0, 0x0, 0x4a27a10, 0x0 )   clone(fork): process 7 created child 8
 --> [pre-success] Success(0x8)\x20
SYSCALL[8,1](11) sys_munmap ( 0x7000000, 4096 )[sync] --> Success(0x0)\x20
I  0400100c,3
 S 07000010,4
SYSCALL[7,1](25) sys_mremap ( 0x7000000, 12288, 8192, 0x1 ) --> [pre-success] Success(0x7100000)\x20
I  0400100f,3
 L 07101000,8
 L 07100000,8
 S 07000000,8
SYSCALL[7,1](12) sys_brk ( 0x5001000 ) --> [pre-success] Success(0x5001000)\x20
SYSCALL[7,1](12) sys_brk ( 0x9001000 ) --> [pre-success] Success(0x5001000)\x20
SYSCALL[7,1](231) exit_group( 0 ) --> [pre-success] Success(0x0)\x20
"""


def parsed(text: str, chunk: int = 1 << 20, window: int = 4) -> Lackey:
    log = Lackey(window, 0, 1)
    log.anonymous(0x1FFEFFF000, 0x1FFF001000)
    for at in range(0, len(text), chunk):
        log.feed(text[at : at + chunk].encode())
    return log


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_parser(chunk: int) -> None:
    log = parsed(LOG, chunk)
    assert log.finish(), log.error
    assert log.lines == LOG.count("\n")
    assert log.bytes == len(LOG)
    assert (log.instructions, log.brk_start, log.brk_refused, log.forks) == (6, 0x5000000, 1, 1)
    # The store over the edge of two pages counts twice; the two to unmapped or file pages are the others.
    assert (log.accesses_anonymous, log.accesses_other) == (9, 2)
    assert log.names == ["/lib/a (b).so"]
    touches = np.frombuffer(log.touches, TOUCH_DTYPE)
    found = [(int(i), int(p & ~WRITE_BIT), bool(p & WRITE_BIT)) for i, p in touches]
    assert found == [
        (1, 0x1FFF000, True),
        (3, 0x7000, False),
        (4, 0x7000, True),
        (4, 0x7001, True),
        (4, 0x5002, False),
        (4, 0x5001, True),
        (5, 0x7000, True),
    ]
    calls = np.frombuffer(log.calls, CALL_DTYPE)
    numbers = [(int(c["instruction"]), int(c["number"]), int(c["name"])) for c in calls]
    assert numbers == [
        (1, 12, -1), (2, 12, -1), (2, 9, 0), (2, 9, -1), (4, 28, -1), (5, 25, -1), (6, 12, -1), (6, 12, -1),
    ]  # fmt: skip
    assert calls[3]["args"].tolist() == [0, 12288, 3, 34, 4294967295, 0]
    assert calls[5]["result"] == 0x7100000
    runs = np.frombuffer(log.runs, RUN_DTYPE)
    assert [(int(r["page"]), int(r["count"]), int(r["written"])) for r in runs] == [
        (0x1FFF000, 1, 1), (0x7000, 1, 0), (0x7000, 2, 1), (0x7001, 1, 1), (0x5002, 1, 0), (0x5001, 1, 1),
        (0x7000, 1, 1), (0x7101, 1, 0), (0x7100, 1, 0),
    ]  # fmt: skip


def test_sampled_windows_are_nested_and_merged() -> None:
    lines = "".join(f"I  0400{i % 256:04x},3\n S 1ffe00{i // 2 % 8:x}000,8\n" for i in range(80_000))
    logs = [Lackey(64, budget, 4) for budget in (0, 1)]
    for log in logs:
        log.anonymous(0x1FFE000000, 0x1FFF001000)
        assert log.feed(lines.encode())
    everything, runs = (np.frombuffer(log.runs, RUN_DTYPE) for log in logs)
    assert log.level > 0
    assert 0 < len(runs) < 4 * (64 + 2048)
    assert {0} < set(runs["count"] > 0)
    assert set(runs["instruction"] // 64) < set(everything["instruction"] // 64)


def test_windows() -> None:
    windows = Windows(1000, np.array([3, 4, 9]), np.array([8, 7, 5]))
    runs = np.zeros(5, RUN_DTYPE)
    runs["instruction"] = 3000, 3001, 4000, 4001, 9000
    runs["count"] = 0, 5, 0, 5, 0
    assert windows.weights(runs).tolist() == [0, 8, 0, 7, 0]
    assert windows.outside(np.array([2999, 3999, 5000, 9999], np.uint64)).tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert without_needless_warmth(1000, runs)["instruction"].tolist() == [3000, 3001, 4001, 9000]


def test_windows_stand_for_those_that_resemble_them() -> None:
    walks = np.array([0, 9, 0, 9, 9, 0, 9, 9])
    begun = np.c_[np.arange(8) * 100, np.zeros(8), np.cumsum(walks) - walks]
    runs = np.zeros(2, RUN_DTYPE)
    runs["instruction"], runs["count"] = (2000, 4000), 1
    windows = weigh(1000, runs, begun, (800, 0, walks.sum()))
    assert windows.kept.tolist() == [2, 4]
    assert windows.weight.tolist() == [3, 5]
    everything = np.zeros(8, RUN_DTYPE)
    everything["instruction"] = np.arange(8) * 1000
    assert weigh(1000, everything, begun, (800, 0, walks.sum())).weight.tolist() == [1] * 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the log is empty"),
        ("hello\n", "line 1 of the log: not a line of lackey: hello"),
        ("I  04001000,3\n", "it ends before the program's exit"),
        (LOG[:-20], "it ends inside a line"),
        (LOG + "I  0400", "it ends inside a line"),
        ("I  04001000,3\n S 1fff0007zz,8\n", "line 2 of the log: malformed access"),
        ("I  zz001000,13\n", "line 1 of the log: malformed instruction"),
        ("I  04001000,3\n S 1fff000788,\n", "malformed access"),
        ("I  04001000,3\nSYSCALL[7,1\n", "malformed system call"),
    ],
)
def test_malformed_logs(text: str, message: str) -> None:
    log = parsed(text)
    assert not log.finish()
    assert message in log.error
    assert "\n" not in log.error


def test_model_misses_needs_a_weight_for_each_run() -> None:
    with pytest.raises(ValueError, match="one weight for each run"):
        model_misses(np.zeros(2, RUN_DTYPE).tobytes(), b"")


# -- parts -----------------------------------------------------------------------------------------


def test_get_unmapped_area() -> None:
    occupied, top = Intervals(), 0x7FFFF7FFF000
    first = get_unmapped_area(occupied, 5 << 20, top, aligned=False)
    assert first == top - (5 << 20)
    occupied.add(first, top)
    huge = get_unmapped_area(occupied, 4 << 20, top, aligned=True)
    assert huge % PMD == 0
    assert first - PMD < huge + (4 << 20) <= first
    occupied.add(huge, huge + (4 << 20))
    hole = first - huge - (4 << 20)
    assert get_unmapped_area(occupied, hole, top, aligned=False) == first - hole
    # A start that is aligned by itself moves up by the whole padding (mm/huge_memory.c).
    assert get_unmapped_area(Intervals(), PMD, 4 * PMD, aligned=True) == 3 * PMD
    with pytest.raises(MemoryError):
        get_unmapped_area(Intervals(), 2 << 20, 1 << 20, aligned=True)


def test_content_classes() -> None:
    assert compressed_percentage(bytes(4096)) == 0
    assert compressed_percentage(os.urandom(4096)) == 100
    assert 1 <= compressed_percentage(b"abcdefgh" * 512) < 10
    classes = ContentClasses()
    classes.add(np.zeros(40, int), np.arange(40) * 50, np.r_[np.full(20, 33), np.full(20, 71)])
    classes.finish()
    found = classes.of(np.array([0, 0, 9]), np.array([3, 1900, 0]))
    assert found.tolist() == [30, 70, 50]


# -- refusals --------------------------------------------------------------------------------------
