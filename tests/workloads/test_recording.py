import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from thp_workloads.recording import record as recorder
from thp_workloads.recording._lackey import Lackey, model_misses
from thp_workloads.recording.content import ContentClasses, compressed_percentage
from thp_workloads.recording.program_writer import TOUCH_DTYPE, WRITE_BIT
from thp_workloads.recording.record import RecordingError, record, sampling_error
from thp_workloads.recording.replayer import CALL_DTYPE
from thp_workloads.recording.unmapped_area import get_unmapped_area
from thp_workloads.recording.windows import RUN_DTYPE, Windows, weigh, without_needless_warmth

from thp_env.machine import Machine, Status, layout
from thp_env.traces import Program, load_program
from thp_env.traces.intervals import Intervals

PMD = layout.PMD_SIZE
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#define PAGE 4096L
static int out;
static volatile char bss[40 * PAGE] __attribute__((aligned(4096)));
static void print(const char *name, volatile void *p) {
    char line[64]; /* dprintf would use the heap */
    write(out, line, snprintf(line, sizeof line, "%s %lx\n", name, (unsigned long)p));
}
static volatile char *map(const char *name, size_t length) {
    char *p = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    print(name, p);
    return p;
}
int main(int argc, char **argv) {
    out = open(argv[1], O_CREAT | O_WRONLY | O_TRUNC, 0644);
    long spins = atol(argv[2]);
    volatile char *a = map("a", 4 << 20), *b = map("b", (3 << 20) + PAGE), *c = map("c", 2 << 20);
    for (long i = 0; i < 64; i++) a[i * PAGE] = 1;
    for (long i = 0; i < 10; i++) (void)b[i * PAGE];
    b[3 * PAGE] = 1;
    for (long i = 0; i < 16; i++) c[i * 7 % 16 * PAGE] += 1;
    madvise((char *)a + 16 * PAGE, 16 * PAGE, MADV_DONTNEED);
    (void)a[20 * PAGE];
    a[21 * PAGE] = 2;
    munmap((char *)b, 1 << 20);
    volatile char *d = map("d", 10 << 20);
    for (long i = 0; i < 2560; i++) d[i * 40503 % 2560 * PAGE]++;
    for (unsigned i = 0, x = 1; i < spins; i++) d[(x = x * 1664525 + 1013904223) % 2560 * PAGE + 8]++;
    volatile char *e = mremap((char *)c, 2 << 20, 5 << 20, MREMAP_MAYMOVE);
    print("e", e);
    e[2 * PAGE] = 1;
    e[(4 << 20)] = 1;
    mprotect((char *)a, 8 * PAGE, PROT_READ);
    volatile char *f = map("f", 64 * PAGE), *g = map("g", 2 << 20);
    f[63 * PAGE + 4092] = 1;
    *(volatile long *)(f + PAGE - 4) = 1; /* over the edge of two pages */
    bss[30 * PAGE] = 1; /* the .bss may begin with another page */
    char *heap = sbrk(20 * PAGE);
    print("heap", heap);
    heap[5 * PAGE] = 1;
    sbrk(-10 * PAGE);
    sbrk(10 * PAGE);
    heap[15 * PAGE] = 1;
    munmap((char *)g, 2 << 20);
    return 0;
}
"""
NAMES = "abcdefg"
BSS = [("write", "bss", 30, 1), ("write", "bss", 31, 1)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "program.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O1", "-o", folder / "program", folder / "program.c"], check=True)
    return folder / "program"


def regions_of(recorded: Program) -> dict[str, str]:
    """Map the test program's names to those of the recording: its mappings come last."""
    mine = [r for r in recorded.regions if re.fullmatch(r"m\d+", r)][-len(NAMES) :]
    return dict(zip(NAMES, mine, strict=True)) | {"heap": "heap", "bss": "bss"}


def exact_events(recorded: Program) -> Iterator[tuple]:
    """Yield system calls and first touches, as (name, region, first page, pages)."""
    names = recorded.regions
    state: dict[tuple[str, int], int] = {}

    def access(region: str, page: int, write: int) -> Iterator[tuple]:
        if state.get((region, page), -1) < write:
            state[region, page] = write
            yield ("write" if write else "read"), region, page, 1

    def forget(region: str, pages: range) -> None:
        for page in pages:
            state.pop((region, page), None)

    for op in recorded.ops:
        name = layout.OPS[op["op"]]
        region = names[op["region"]] if op["region"] < len(names) else ""
        first, count = int(op["offset"]) // 4096, int(op["length"]) // 4096
        if name == "replay":
            for r in recorded.accesses[int(op["offset"]) : int(op["offset"] + op["length"])]:
                yield from access(names[r["region"]], int(r["page"]), int(r["written"]))
        elif name == "touch":
            for page in range(first, first + count):
                yield from access(region, page, op["b"] != 0)
        elif name in ("munmap", "advise", "mprotect"):
            if name != "mprotect":
                forget(region, range(first, first + count))
            yield name, region, first, count
        elif name == "mremap":
            target = names[op["aux"]]
            for page in range(count):
                if (region, first + page) in state:
                    state[target, page] = state.pop((region, first + page))
            yield name, region, first, count
            yield "to", target, 0, int(op["a"]) // 4096
        elif name in ("mmap", "brk"):
            if name == "brk":
                forget(region, range(count, 1 << 16))
            yield name, region, 0, count


def expected_events() -> list[tuple]:
    events = [("mmap", "a", 0, 1024), ("mmap", "b", 0, 769), ("mmap", "c", 0, 512)]
    events += [("write", "a", i, 1) for i in range(64)]
    events += [("read", "b", i, 1) for i in range(10)] + [("write", "b", 3, 1)]
    # c += 1 is a load and a store, or one modification: both end in a write.
    events += [("write", "c", i * 7 % 16, 1) for i in range(16)]
    events += [("advise", "a", 16, 16), ("read", "a", 20, 1), ("write", "a", 21, 1), ("munmap", "b", 0, 256)]
    events += [("mmap", "d", 0, 2560), *(("write", "d", i * 40503 % 2560, 1) for i in range(2560))]
    events += [("mremap", "c", 0, 512), ("to", "e", 0, 1280), ("write", "e", 1024, 1)]
    events += [("mprotect", "a", 0, 8), ("mmap", "f", 0, 64), ("mmap", "g", 0, 512)]
    events += [("write", "f", 63, 1), ("write", "f", 0, 1), ("write", "f", 1, 1), ("write", "bss", 30, 1)]
    events += [("brk", "heap", 0, 20), ("write", "heap", 5, 1), ("brk", "heap", 0, 10)]
    return [*events, ("brk", "heap", 0, 20), ("write", "heap", 15, 1), ("munmap", "g", 0, 512)]


def without_reads_before_writes(events: list[tuple]) -> list[tuple]:
    """Drop a read whose write follows at once: the compiler chooses how many instructions `x += 1` is."""
    return [
        e for e, after in zip(events, [*events[1:], None], strict=True)
        if not (e[0] == "read" and after and after == ("write", *e[1:]))
    ]  # fmt: skip


@needs_gcc
@needs_valgrind
@pytest.mark.parametrize(
    "options",
    [{"keep_full": True}, {"window": 1 << 20}, {"window": 1024, "budget": 1}],
    ids=["full", "one window", "sampled"],
)
def test_calls_and_first_touches_are_exact(program: Path, tmp_path: Path, options: dict) -> None:
    out = tmp_path / "out.npz"
    recorded = record([str(program), str(tmp_path / "log"), "50000"], out, progress=False, **options)
    assert load_program(out) == recorded
    if "budget" in options:
        assert recorded.meta["period"] >= 4 * recorded.meta["window"]
        assert len(recorded.accesses) < 20_000
    mine = {region: name for name, region in regions_of(recorded).items()}
    found = [(e[0], mine[e[1]], *e[2:]) for e in exact_events(recorded) if e[1] in mine]
    found = [BSS[0] if e in BSS else e for e in found if e[1] != "bss" or e in BSS]
    start = found.index(("mmap", "a", 0, 1024))
    assert without_reads_before_writes(found[start:]) == expected_events()


@needs_gcc
@needs_valgrind
def test_mappings_start_as_in_a_native_run(program: Path, tmp_path: Path) -> None:
    if subprocess.run(["setarch", "-R", "true"], check=False).returncode:
        pytest.skip("setarch -R is not permitted here")
    recorded = record([str(program), str(tmp_path / "log"), "600"], progress=False)
    subprocess.run(["setarch", "-R", program, tmp_path / "native", "600"], check=True)
    native = dict(line.split() for line in (tmp_path / "native").read_text().splitlines())
    machine = Machine(recorded)
    assert machine.run() == Status.DONE
    names = regions_of(recorded)
    simulated = {name: machine.region(names[name])[0] for name in native}
    assert {n: a % PMD for n, a in simulated.items()} == {n: int(a, 16) % PMD for n, a in native.items()}


@needs_gcc
@needs_valgrind
def test_time_passes_as_instructions(program: Path, tmp_path: Path) -> None:
    command = [str(program), str(tmp_path / "log"), "50000"]
    recorded = record(command, window=1024, budget=1, ns_per_instruction=0.5, progress=False)
    ps = weighted = 0
    for op in recorded.ops:
        if layout.OPS[op["op"]] == "compute":
            ps += int(op["a"])
        elif layout.OPS[op["op"]] == "replay":
            records = recorded.accesses[int(op["offset"]) : int(op["offset"] + op["length"])]
            ps += int(records["instructions"].sum()) * int(op["c"]) * int(op["weight"])
            weighted += int(records["count"].sum()) * int(op["weight"])
    assert ps == pytest.approx(recorded.meta["instructions"] * 500, rel=1e-6)
    assert weighted == pytest.approx(recorded.meta["accesses_anonymous"], rel=0.25)


@needs_gcc
@needs_valgrind
def test_sampling_error(program: Path, tmp_path: Path) -> None:
    command = [str(program), str(tmp_path / "log"), "200000"]
    assert set(sampling_error(command, keep_full=True, progress=False).values()) == {0.0}
    error = sampling_error(command, window=8192, budget=1, progress=False)
    assert max(abs(e) for e in error.values()) < 0.1


# -- the log ---------------------------------------------------------------------------------------

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


def refused(message: str, *args: object, **options: object) -> None:
    with pytest.raises(RecordingError, match=message) as error:
        record(*args, progress=False, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_unknown_command() -> None:
    refused("command not found: no-such-command", ["no-such-command"])
    refused("command not found", [])


def test_missing_valgrind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("apt-get install valgrind", [sys.executable])


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    refused("cannot write .*: No such file or directory", ["true"], tmp_path / "missing" / "out.npz")
    refused("cannot write .*: Is a directory", ["true"], tmp_path)


def test_valgrind_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "valgrind"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    refused("valgrind died before the program's first access: exit status 3", ["true"], tmp_path / "out.npz")
    assert os.listdir(tmp_path) == ["valgrind"]


@needs_valgrind
def test_program_that_replaces_itself() -> None:
    refused("cannot record sh: the program replaces itself by another one", ["sh", "-c", "exec true"])


@needs_valgrind
def test_program_that_is_killed(tmp_path: Path) -> None:
    refused("sh was killed by signal 9", ["sh", "-c", "kill -9 $$"], tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())


@needs_gcc
@needs_valgrind
def test_program_without_anonymous_memory(tmp_path: Path) -> None:
    (tmp_path / "a.s").write_text(
        ".globl _start\n_start: mov $5000, %ecx\n1: push %rcx\npop %rcx\nloop 1b\n"
        "mov $231, %eax\nxor %edi, %edi\nsyscall\n"
    )
    subprocess.run(["gcc", "-nostdlib", "-static", "-o", tmp_path / "a", tmp_path / "a.s"], check=True)
    refused("made no anonymous mapping", [str(tmp_path / "a")])


@needs_valgrind
def test_interrupt_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []

    def interrupted(fd: int, process: subprocess.Popen, *rest: object) -> None:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(["sleep", "60"], tmp_path / "out.npz", progress=False)
    assert started[0].poll() == -9
    assert not list(tmp_path.iterdir())


def test_unlimited_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (-1, -1))
    refused("an unlimited stack", [sys.executable])
