"""Where mappings go and which of them merge: by the text of 6.18, and against the kernel that runs the test."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import PAGE, PMD, machine_of, run
from support.programs import QUIET

from thp_env.machine import Status, layout
from thp_env.traces import ProgramBuilder
from thp_env.traces.intervals import Intervals

BASE = layout.TASK_SIZE - (128 << 20)
"""mmap_base without randomisation and with a stack limit of 8 MiB."""


def do(b, steps):
    """Add maps (a length) and unmaps (region, offset, length), in pages."""
    number = 0
    for step in steps:
        if isinstance(step, int):
            b.mmap(f"r{number}", step * PAGE, at="auto")
            number += 1
        else:
            b.munmap(f"r{step[0]}", step[1] * PAGE, step[2] * PAGE)


def placed(steps, base=BASE):
    """Return how many pages below the base each mapping starts."""
    b = ProgramBuilder("place", mmap_base=base)
    do(b, steps)
    machine = machine_of(b.build())
    assert machine.run() == Status.DONE
    return [(base - machine.region(name)[0]) // PAGE for name in machine.program.regions]


# (steps, distance of each mapping's start from mmap_base, in pages). The base is 0x7ffff7fff000: one page
# short of a multiple of 2M, so the highest aligned 2M block starts 1023 pages below it.
TABLE = [
    ([1], [1]),
    ([1, 1, 5], [1, 2, 7]),
    ([511], [511]),
    ([513], [513]),  # not a multiple of 2M: not aligned
    ([512], [1023]),  # found = base - 1024 pages, rounded up to 2M
    ([1024], [1535]),
    ([512, 512], [1023, 1535]),  # 1023 + 512: aligned without padding, so the padding is skipped
    ([512, 1], [1023, 1]),  # a small one goes into the gap above
    ([512, 511, 1], [1023, 511, 1024]),  # which is then full
    ([512, 512, 513], [1023, 1535, 2048]),
    ([1, 512], [1, 1023]),
    ([513, 512], [513, 1535]),
    ([1, 1, 1, (1, 0, 1), 1], [1, 2, 3, 2]),  # the highest gap that fits
    ([1, 2, 1, (1, 0, 2), 3, 2], [1, 3, 4, 7, 3]),
    ([512, 512, 512, (1, 0, 512), 512], [1023, 1535, 2047, 2559]),  # a hole without room for padding is not found
    ([512, 1024, 512, (1, 0, 1024), 512], [1023, 2047, 2559, 1535]),
]


@pytest.mark.parametrize(("steps", "expected"), TABLE)
def test_top_down_with_2m_alignment_of_2m_lengths(steps, expected):
    assert placed(steps) == expected


def test_the_base_of_the_table():
    assert BASE == 0x7FFFF7FFF000
    assert BASE % PMD == 511 * PAGE


@pytest.mark.parametrize("length", [512, 1024, 5 * 512])
def test_2m_lengths_are_aligned_and_others_follow_at_once(length):
    start = (BASE - placed([7, length])[1] * PAGE) % PMD
    assert start == 0
    assert placed([7, length + 1])[1] == 7 + length + 1


def test_without_room_for_padding_the_length_alone_is_tried():
    """thp_get_unmapped_area_vmflags falls back to the plain search."""
    base = 16 * PAGE + PMD + 5 * PAGE
    assert placed([512], base) == [512]
    b = ProgramBuilder("full", mmap_base=base, checked=False)
    b.mmap("a", 2 * PMD, at="auto")
    machine = machine_of(b.build())
    assert machine.run() == Status.ERROR
    assert machine.error == 12


@pytest.mark.parametrize(
    ("text", "vmas"),
    [
        ("mmap a 4K at=auto\nmmap b 4K at=auto\n", [2]),
        ("mmap a 4K at=auto\nmmap b 4K at=auto prot=r\n", [1, 1]),
        ("mmap a 4K at=auto\nmmap b 4K at=auto nohugepage=1\n", [1, 1]),
        ("mmap a 4K at=auto file=1\nmmap b 4K at=auto file=1\n", [1, 1]),
        ("mmap a 8K at=auto\nmprotect a 0 4K r\nmprotect a 0 4K rw\n", [2]),
        ("mmap a 12K at=auto\nmunmap a 4K 4K\nmmap b 4K at=auto\n", [3]),
        ("mmap a 4K at=auto\nwrite a 0 4K\nmmap b 4K at=auto\nwrite b 0 4K\n", [2]),
        # Each got an anon_vma of its own before they became neighbours: they stay apart.
        ("mmap a 12K at=auto\nmunmap a 4K 4K\nwrite a 0 4K\nwrite a 8K 4K\nmmap b 4K at=auto\n", [2, 1]),
        ("mmap a 8K at=auto\nwrite a 0 4K\nadvise a 4K 4K hugepage\nadvise a 0 4K hugepage\n", [2]),
        ("mmap a 8K at=auto\nmlock a 0 4K\n", [1, 1]),
        # A mapping that was faulted in keeps its page offset where it moves to, others take the new one.
        ("mmap a 4K at=auto\nmmap b 8K at=auto\nmremap b 0 4K c at=auto\n", [3]),
    ],
)
def test_which_neighbours_merge(text, vmas):
    assert sorted(v.pages for v in run(text).vmas()) == sorted(vmas)


@QUIET
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20), st.data())
def test_mappings_never_overlap_and_freed_room_is_used_again(lengths, data):
    b = ProgramBuilder("place")
    for i, length in enumerate(lengths):
        b.mmap(f"r{i}", length * PAGE, at="auto")
    gone = data.draw(st.integers(0, len(lengths) - 1))
    b.munmap(f"r{gone}", 0, lengths[gone] * PAGE)
    b.mmap("again", lengths[gone] * PAGE, at="auto")
    machine = machine_of(b.build())
    assert machine.run() == Status.DONE
    machine.validate()
    old, new = machine.region(f"r{gone}")[0], machine.region("again")[0]
    if lengths[gone] % 512:
        assert new >= old
    else:
        assert new % PMD == 0
    assert sum(v.pages for v in machine.vmas()) == sum(lengths)


# -- the kernel that runs this test ---------------------------------------------------------------

LIVE = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def maps():
    file = os.open("/proc/self/maps", os.O_RDONLY)
    text = b""
    while part := os.read(file, 65536):
        text += part
    os.close(file)
    return text.decode()
steps = json.loads(sys.argv[1])
starts = [0] * len(steps)
maps()
before = maps()
n = 0
for step in steps:
    if isinstance(step, list):
        libc.munmap(starts[step[0]] + step[1] * 4096, step[2] * 4096)
    else:
        starts[n] = libc.mmap(None, step * 4096, 3, 0x22, -1, 0)
        n += 1
after = maps()
print(json.dumps([before, starts[:n], after]))
"""

LOWEST = 0x7FF000000000
MAP_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")


def live_kernel_says(steps):
    major, minor = map(int, platform.release().split(".")[:2])
    if platform.system() != "Linux" or platform.machine() != "x86_64" or (major, minor) < (6, 13):
        pytest.skip("needs x86-64 Linux 6.13 or later")
    if not Path("/sys/kernel/mm/transparent_hugepage").exists() or not shutil.which("setarch"):
        pytest.skip("needs transparent huge pages and setarch")
    command = ["setarch", "-R", sys.executable, "-I", "-S", "-c", LIVE, json.dumps(steps)]
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    environment.pop("LD_PRELOAD", None)
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        pytest.skip(f"no program without address randomisation: {result.stderr.strip()[-200:]}")
    before, starts, after = json.loads(result.stdout)
    return parse_maps(before), starts, parse_maps(after)


def parse_maps(text):
    """Return (start, end, whether it is private anonymous memory without a name) of each VMA."""
    matches = [MAP_LINE.match(line) for line in text.splitlines()]
    return [(int(m[1], 16), int(m[2], 16), m[3] == "rw-p" and not m[4]) for m in matches]


@pytest.mark.parametrize(
    "steps",
    [[s if isinstance(s, int) else list(s) for s in steps] for steps, _ in TABLE]
    + [
        [3000, 512, 700, 1024, [1, 0, 512], 600, 512, 5],
        [2048, [0, 512, 512], 512, 511, 100, 1024],
        [512, 512, 512, [1, 100, 312], 312, 200, 1],
    ],
    ids=lambda s: "-".join(map(str, s)).replace(", ", ","),
)
def test_placement_and_merging_equal_the_live_kernel(steps):
    """The machine starts with the mappings that the real process has and must predict every address."""
    before, starts, after = live_kernel_says(steps)
    b = ProgramBuilder("live", mmap_base=BASE)
    old = [(start, end) for start, end, _ in before if start >= LOWEST and end <= BASE]
    for i, (start, end) in enumerate(old):
        b.mmap(f"old{i}", end - start, at=start, file=True)
    do(b, steps)
    machine = machine_of(b.build())
    assert machine.run() == Status.DONE
    assert [hex(machine.region(f"r{i}")[0]) for i in range(len(starts))] == [hex(s) for s in starts]
    real = []
    for start, end, anonymous in after:
        if anonymous and start >= LOWEST and end <= BASE:
            new = Intervals()  # a new mapping may have merged with one of the process's own
            new.add(start, end)
            for part in old:
                new.remove(*part)
            real += new
    assert [(v.start, v.end) for v in machine.vmas() if v.anonymous] == real
