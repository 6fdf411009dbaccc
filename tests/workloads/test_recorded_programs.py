"""What the recorder makes of what people run: children, threads, allocators, clocks, servers."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from thp_workloads.recording.native_record import record_native
from thp_workloads.recording.record import RecordingError, record
from thp_workloads.recording.summary import summary, usage

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.traces import Program

PAGE, MIB = layout.PAGE_SIZE, 1 << 20
pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
]


def compiled(folder: Path, source: str, *options: str) -> str:
    (folder / "program.c").write_text(source)
    subprocess.run(["gcc", "-O1", *options, "-o", folder / "program", folder / "program.c"], check=True)
    return str(folder / "program")


def names_of(recorded: Program) -> list[tuple[str, str, int]]:
    return [(layout.OPS[op["op"]], recorded.processes[op["process"]], int(op["length"])) for op in recorded.ops]


TREE = r"""
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    long pages = argc > 1 ? 100 : 300;
    volatile char *p = mmap(0, pages * 4096, 3, 0x22, -1, 0);
    for (long i = 0; i < pages; i++) p[i * 4096] = 1;
    for (int i = 0; argc == 1 && i < 2; i++)
        if (fork() == 0) execl(argv[0], argv[0], "child", (char *)0);
    while (argc == 1 && wait(0) > 0) {}
    munmap((char *)p, pages * 4096);
    return 0;
}
"""


def test_children_are_followed_across_fork_and_exec(tmp_path: Path) -> None:
    program = compiled(tmp_path, TREE)
    recorded = record([program], progress=False)
    commands = sorted(recorded.meta["programs"])
    # Each child is first a copy of its parent, and then the program that it executes.
    assert commands == [program] * 3 + [f"{program} child"] * 2
    ops = names_of(recorded)
    parent = ops.index(("mmap", "program0", 300 * PAGE))
    ends = ops.index(("munmap", "program0", 300 * PAGE))
    children = [i for i, (name, _, length) in enumerate(ops) if name == "mmap" and length == 100 * PAGE]
    assert len(children) == 2
    # The parent waits with its memory mapped.
    assert parent < min(children) < max(children) < ends
    machine = Machine(recorded, MachineConfig(memory=64 * MIB))
    assert machine.run(go_on=True) == Status.DONE
    assert machine.counters["peak_resident"] >= 300 + 100
    assert machine.counters["nr_resident"] == 0


def test_only_the_command_itself(tmp_path: Path) -> None:
    recorded = record([compiled(tmp_path, TREE)], children=False, progress=False)
    assert all("child" not in command for command in recorded.meta["programs"])


FORK = r"""
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define PAGES 512
int main(void) {
    volatile char *p = mmap(0, PAGES * 4096, 3, 0x22, -1, 0), *s = mmap(0, PAGES * 4096, 3, 0x21, -1, 0);
    for (long i = 0; i < PAGES; i++) p[i * 4096] = s[i * 4096] = 1;
    if (fork() == 0) {
        for (long i = 0; i < 200; i++) p[i * 4096] = s[i * 4096] = 2;
        _exit(0);
    }
    wait(0);
    return p[0] + s[0];
}
"""


def test_copy_on_write_after_fork(tmp_path: Path) -> None:
    recorded = record([compiled(tmp_path, FORK)], window=1024, budget=1, progress=False)
    assert "2.0 MiB of shared anonymous memory: single pages that stay" in " ".join(recorded.meta["distortions"])
    assert recorded.meta["exit_status"] == 3  # private memory is the parent's own, shared memory is not
    machine = Machine(recorded, MachineConfig(memory=64 * MIB))
    assert machine.run(go_on=True) == Status.DONE
    # 512 private pages and 200 copies, and what starting a program takes; 512 shared pages.
    assert 712 <= machine.counters["peak_resident"] < 712 + 150
    assert machine.counters["nr_file_pages"] >= 512


RANDOM = r"""
#include <sys/mman.h>
#define PAGES 4096
int main(void) {
    volatile char *p = mmap(0, PAGES * 4096, 3, 0x22, -1, 0);
    for (long i = 0; i < PAGES; i++) p[i * 4096] = 1;
    unsigned x = 1;
    for (long i = 0; i < 3000000; i++) p[((x = x * 1664525 + 1013904223) >> 16) % PAGES * 4096L] += 1;
    return 0;
}
"""


def test_a_file_of_a_size_that_is_asked_for(tmp_path: Path) -> None:
    program, most = compiled(tmp_path, RANDOM), 400_000
    whole = record([program], tmp_path / "whole.npz", progress=False)
    packed = record([program], tmp_path / "packed.npz", most=most, progress=False)
    assert (tmp_path / "packed.npz").stat().st_size <= most < (tmp_path / "whole.npz").stat().st_size
    # Nothing but windows is left out: what faults is the same, and the windows stand for as many accesses.
    assert usage(packed) == usage(whole)
    assert usage(packed).faults >= 4096
    assert packed.work.sum() == pytest.approx(whole.work.sum(), rel=0.01)
    assert len(packed.accesses) < len(whole.accesses)


WRITTEN_ELSEWHERE = r"""
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    /* return 1; return 2 */
    static const unsigned char code[2][6] = {{0xb8, 1, 0, 0, 0, 0xc3}, {0xb8, 2, 0, 0, 0, 0xc3}};
    int file = memfd_create("code", 0), last = 0;
    if (ftruncate(file, 4096)) return 99;
    char *written = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int (*run)(void) = (int (*)(void))mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    memset(mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 65536);
    for (int i = 0; i < 2; i++) {
        memcpy(written, code[i], sizeof code[i]);
        last = run();
    }
    return last;
}
"""


def test_code_that_is_written_through_a_file(tmp_path: Path) -> None:
    program = compiled(tmp_path, WRITTEN_ELSEWHERE)
    assert record([program], smc_check="all", progress=False).meta["exit_status"] == 2
    assert record([program], progress=False).meta["exit_status"] == 1, "why there is an option"


ARENA = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *work(void *x) {
    char *p = malloc(100000);
    memset(p, 1, 100000);
    printf("%lx\n", (unsigned long)p & 0x3ffffff);
    return x;
}
int main(void) {
    pthread_t t;
    pthread_create(&t, 0, work, 0);
    pthread_join(t, 0);
    return 0;
}
"""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_aligned_by_trimming_stays_aligned(tmp_path: Path, seed: int) -> None:
    recorded = record([compiled(tmp_path, ARENA, "-pthread")], seed=seed, progress=False)
    machine = Machine(recorded, MachineConfig(memory=64 * MIB))
    aligned = False
    while machine.run(ops=1) != Status.DONE:
        aligned |= any(v.end - v.start == 64 * MIB and v.start % (64 * MIB) == 0 for v in machine.vmas())
    assert aligned
    assert machine.counters["nr_resident"] > 0


def test_layouts_differ_by_seed(tmp_path: Path) -> None:
    program = compiled(tmp_path, ARENA, "-pthread")
    bases = {
        (p.meta["mmap_base"], p.meta["brk_start"]) for p in (record([program], seed=s, progress=False) for s in (1, 2))
    }
    assert len(bases) == 2
    assert all(b % PAGE == 0 for pair in bases for b in pair)


RESERVE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    char *p = mmap(0, 8UL << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return 1;
    for (size_t i = 0; i < 64; i++) {
        mprotect(p + (i << 36), 1 << 20, PROT_READ | PROT_WRITE);
        memset(p + (i << 36), 1, 1 << 20);
    }
    if (mmap(0, 128UL << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED) return 2;
    char *heap = sbrk(100 << 20);
    if (heap == (char *)-1) return 3;
    memset(heap, 1, 100 << 20);
    return 0;
}
"""


def test_large_reservations_and_heaps(tmp_path: Path) -> None:
    recorded = record([compiled(tmp_path, RESERVE)], progress=False)
    assert recorded.meta["exit_status"] == 0
    assert ("mmap", "P", 8 << 40) in names_of(recorded)
    assert max(length for name, _, length in names_of(recorded) if name == "brk") >= 100 << 20
    used = usage(recorded)
    assert not used.fault
    assert used.peak == pytest.approx(164 * MIB, rel=0.01)


CLOCK = r"""
#include <stdint.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>
#include <x86intrin.h>
static double now(int c) { struct timespec t; clock_gettime(c, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static double day(void) { struct timeval t; gettimeofday(&t, 0); return t.tv_sec + t.tv_usec * 1e-6; }
int main(void) {
    double m = now(CLOCK_MONOTONIC), r = now(CLOCK_REALTIME), d = day(), c = now(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t tsc = __rdtsc();
    for (volatile long i = 0; i < 30000000; i++) {}
    double busy = now(CLOCK_MONOTONIC) - m;
    struct timespec half = {0, 500000000};
    nanosleep(&half, 0);
    printf("%f %f %f %f %f %lu %ld\n", busy, now(CLOCK_MONOTONIC) - m, now(CLOCK_REALTIME) - r, day() - d,
           now(CLOCK_PROCESS_CPUTIME_ID) - c, (unsigned long)(__rdtsc() - tsc), (long)(time(0) - (time_t)d));
    return 0;
}
"""


def test_clocks_are_the_programs_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recorded = record([compiled(tmp_path, CLOCK)], progress=False)
    busy, monotonic, real, day, cpu, cycles, seconds = map(float, capfd.readouterr().out.split())
    # The loop has a few instructions a round, of 0.3 ns each; sleeping takes as long as it does.
    ran = recorded.meta["instructions"] * 0.3e-9
    assert busy == pytest.approx(ran, rel=0.1)
    assert cpu == pytest.approx(ran, rel=0.1)
    for elapsed in (monotonic, real, day):
        assert ran + 0.5 <= elapsed < ran + 2
    assert cycles > 0
    assert 0 <= seconds <= 3


def test_part_of_a_run(tmp_path: Path) -> None:
    source = r"""
    #include <sys/mman.h>
    int main(void) {
        volatile char *p = mmap(0, 1 << 30, 3, 0x22, -1, 0);
        for (unsigned long x = 1, i = 0;; i++) p[i < 1000 ? i * 4096 : (x = x * 1664525 + 1013904223) % 4096000] = 1;
    }
    """
    program = compiled(tmp_path, source)
    recorded = record([program], after=0.05, seconds=0.1, progress=False)
    assert recorded.meta["exit_status"] == 0
    assert recorded.meta["own_seconds"] == pytest.approx(0.1, rel=0.01)
    assert recorded.meta["instructions"] == pytest.approx(0.1e9 / 0.3, rel=0.01)
    machine = Machine(recorded, MachineConfig(memory=64 * MIB))
    assert machine.run(go_on=True) == Status.DONE
    assert machine.counters["nr_resident"] >= 1000


def test_a_program_that_only_waits_is_stopped_in_time() -> None:
    started = time.monotonic()
    recorded = record(["sleep", "300"], seconds=0.5, progress=False)
    assert time.monotonic() - started < 100
    assert recorded.meta["waited_seconds"] == pytest.approx(0.5, abs=0.3)


def test_copies_of_file_pages_count(tmp_path: Path) -> None:
    source = """
    static char data[4 << 20] = {1};
    int main(void) { for (long i = 0; i < 4 << 20; i += 4096) data[i]++; return 0; }
    """
    used = usage(record([compiled(tmp_path, source)], progress=False))
    assert used.peak >= 4 * MIB


def test_the_exit_code_is_passed_on_and_the_summary_says_what_there_is(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    command = [
        sys.executable,
        "-m",
        "thp_agents",
        "record",
        "--quiet",
        "--out",
        str(out),
        "--",
        "sh",
        "-c",
        "exit 7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "1 process" in done.stderr
    assert f"thp-env evaluate --workloads {out}" in done.stderr


def test_summary_of_a_recording(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    recorded = record(["sh", "-c", "exit 0"], out, progress=False)
    lines = summary(recorded, out)
    assert lines[0].startswith("recorded 0.0 s of its own time")
    assert "faults with 4K pages" in lines[1]


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thp_workloads.recording import record as module

    from thp_env.machine.program_check import ProgramError
    from thp_env.traces.npz import save_program

    def full(program: Program, path: Path) -> None:
        if path.parent == tmp_path:
            raise ProgramError(f"cannot write {path}: No space left on device")
        save_program(program, path)

    monkeypatch.setattr(module, "save_program", full)
    with pytest.raises(RecordingError, match="No space left on device; it is in ") as error:
        record(["true"], tmp_path / "out.npz", progress=False)
    saved = Path(str(error.value).split()[-1])
    assert saved.exists()
    shutil.rmtree(saved.parent)


def test_static_programs(tmp_path: Path) -> None:
    source = """
    #include <stdlib.h>
    int main(void) { volatile char *p = malloc(9 << 20); for (long i = 0; i < 9 << 20; i++) p[i] = 1; return p[5]; }
    """
    recorded = record([compiled(tmp_path, source, "-static")], progress=False)
    assert usage(recorded).peak == pytest.approx(9 * MIB, rel=0.05)
    assert np.all(recorded.accesses["count"] > 0)


def test_a_native_recording_agrees(tmp_path: Path) -> None:
    program = compiled(tmp_path, FORK)
    try:
        native = record_native([program], tmp_path / "native.npz")
    except RecordingError as error:
        pytest.skip(str(error))
    assert native.meta["exit_status"] == 3
    assert len(native.processes) == 3
    mine, under_valgrind = usage(native), usage(record([program], progress=False))
    assert not mine.fault
    assert mine.faults == pytest.approx(under_valgrind.faults, rel=0.05)
    assert mine.peak == pytest.approx(under_valgrind.peak, rel=0.05)
    assert summary(native, tmp_path / "native.npz")[0].endswith(" s of its own time: 2 processes")


def test_a_native_recording_without_perf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "true").symlink_to(str(shutil.which("true")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecordingError, match="needs perf: apt-get install linux-perf"):
        record_native(["true"])
