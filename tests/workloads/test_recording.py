"""Recording a real program: calls, first touches, placement, time."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from thp_workloads.recording import tool
from thp_workloads.recording.record import RecordingError, record, sampling_error

from thp_env.machine import Machine, Status, layout
from thp_env.machine.operations import fields
from thp_env.traces import Program, load_program

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
                yield from access(region, page, fields(op)["kind"] != 0)
        elif name in ("munmap", "advise", "mprotect"):
            if name != "mprotect":
                forget(region, range(first, first + count))
            yield name, region, first, count
        elif name == "mremap":
            target = names[fields(op)["to"]]
            for page in range(count):
                if (region, first + page) in state:
                    state[target, page] = state.pop((region, first + page))
            yield name, region, first, count
            yield "to", target, 0, int(fields(op)["new_length"]) // 4096
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
            ps += int(fields(op)["ps"])
        elif layout.OPS[op["op"]] == "replay":
            records = recorded.accesses[int(op["offset"]) : int(op["offset"] + op["length"])]
            ps += int(records["instructions"].sum()) * int(fields(op)["ps"]) * int(op["weight"])
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


def refused(message: str, *args: object, **options: object) -> None:
    with pytest.raises(RecordingError, match=message) as error:
        record(*args, progress=False, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_unknown_command() -> None:
    refused("command not found: no-such-command", ["no-such-command"])
    refused("command not found", [])


def test_times_that_are_none() -> None:
    nan = float("nan")
    none = {"seconds": (0.0, -1.0, nan), "after": (-1.0, nan), "limit": (0.0, -1.0, nan)}
    for name, value in ((name, value) for name, values in none.items() for value in values):
        refused("seconds and limit must be positive", ["true"], **{name: value})


def test_missing_valgrind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("apt-get install valgrind", [sys.executable])


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    refused("cannot write .*: No such file or directory", ["true"], tmp_path / "missing" / "out.npz")
    refused("cannot write .*: Is a directory", ["true"], tmp_path)


def test_what_is_not_valgrind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "valgrind"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for script, message in (
        ("exit 3", "is not valgrind"),
        ("echo valgrind-3.9.0", "needs valgrind 3.18 or newer, not valgrind-3.9.0: apt-get install valgrind"),
        (
            "[ $1 = --version ] && echo valgrind-3.19.0 || exit 3",
            "died before the program's first access: exit status 3",
        ),
    ):
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        refused(message, ["true"], tmp_path / "out.npz")
        assert os.listdir(tmp_path) == ["valgrind"]


@needs_valgrind
def test_program_that_replaces_itself() -> None:
    recorded = record(["sh", "-c", "exec cat /dev/null"], progress=False)
    assert recorded.processes == ("P", "sh0", "cat1")


@needs_valgrind
def test_program_that_is_killed_is_kept_up_to_then() -> None:
    recorded = record(["sh", "-c", "kill -9 $$"], progress=False)
    assert recorded.meta["exit_status"] == -9
    assert "ended by signal 9" in recorded.meta["distortions"]


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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_recorded(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "thp_agents", "record", "--quiet", "--out", "out.npz", "--", "sh", "-c",
               "echo started; sleep 60"]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        assert "the run was stopped by a signal" in process.stderr.read()
    assert "sh0" in load_program(tmp_path / "out.npz").processes


def test_unlimited_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (-1, -1))
    refused("an unlimited stack", [sys.executable])


def test_unlisted_parts_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tool, "HEADERS", tmp_path)
    with pytest.raises(RecordingError, match="headers: apt-get install valgrind"):
        tool.build_tool()


@needs_gcc
@needs_valgrind
def test_lackey_stands_in_where_the_tool_cannot_be_built(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(program), str(tmp_path / "log"), "600"]
    expected = record(command, keep_full=True, progress=False)
    monkeypatch.setattr(tool, "HEADERS", tmp_path)
    recorded = record(command, keep_full=True, progress=False)
    assert "apt-get install valgrind; recording with lackey" in capsys.readouterr().err
    mine = {region: name for name, region in regions_of(recorded).items()}
    found = [(e[0], mine[e[1]], *e[2:]) for e in exact_events(recorded) if e[1] in mine]
    mine = {region: name for name, region in regions_of(expected).items()}
    tools = [(e[0], mine[e[1]], *e[2:]) for e in exact_events(expected) if e[1] in mine]
    start = found.index(("mmap", "a", 0, 1024))
    assert without_reads_before_writes(found[start:]) == without_reads_before_writes(
        tools[tools.index(("mmap", "a", 0, 1024)) :]
    )
    refused("--seconds, --after and --seed need it", command, seconds=1.0)
