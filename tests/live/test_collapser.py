"""Memory that is collapsed from outside, on this host's kernel and simulated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.machines import machine_of
from thp_agents.advice.outside import run_with_looks
from thp_agents.cli import main

from thp_env.live.collapser import Collapser
from thp_env.live.errors import LiveError
from thp_env.live.settings import THP
from thp_env.machine.counters import TIMES

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not THP.exists(), reason="needs root and a kernel with transparent huge pages"
)
# 64 MiB of 4K pages: 16 MiB whole, then 16 MiB of which a quarter is touched, in the first pages of each block.
TOUCHES = """
import mmap, sys, time
m = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, 18 << 20, 4096): m[at] = 1
for at in range(18 << 20, 34 << 20, 2 << 20):
    for page in range(128): m[at + page * 4096] = 1
m.madvise(mmap.MADV_HUGEPAGE)
print("ready", flush=True)
sys.stdin.read()
"""


def huge_kib(pid: int) -> int:
    return sum(map(int, re.findall(r"AnonHugePages: +(\d+) kB", Path(f"/proc/{pid}/smaps").read_text())))


@contextmanager
def touching() -> Iterator[int]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", TOUCHES], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


@needs_root
def test_blocks_that_are_filled_far_enough_become_huge() -> None:
    with touching() as pid:
        before = huge_kib(pid)
        half, any_page = Collapser(pid, 0.5), Collapser(pid, 1 / 512)
        whole = half.look()
        assert 8 <= whole <= 40  # at least 16 of the 18 MiB; and what the interpreter itself has
        assert huge_kib(pid) - before == whole << 11
        assert half.look() == 0
        assert any_page.look() >= 7
        assert half.took > 0


@needs_root
def test_the_command_runs_a_program_and_says_what_it_did(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import time; b = bytearray(64 << 20); b[::4096] = b'1' * (64 << 8); time.sleep(1); raise SystemExit(3)"
    assert main(["collapse", "--every", "0.2", "--", sys.executable, "-c", code]) == 3
    said = capfd.readouterr().err
    assert re.fullmatch(r"collapsed \d+ blocks of 2M \(\d+ MiB\) in 0\.\d\d s of CPU.*\n", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a process by its PID, or a command after --"),
        (["--least", "0", "--", "true"], "--least 0: a share of a block in percent is above 0 and at most 100"),
        (["--least", "101", "1"], "--least 101"),
        (["999999999"], "there is no process 999999999|only root"),
        (["--", "./no-such-command"], "./no-such-command cannot be run: No such file or directory|only root"),
    ],
)
def test_what_cannot_be_collapsed_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collapse", *arguments]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_without_root_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LiveError, match="only root"):
        Collapser(os.getpid())


def test_the_same_simulated() -> None:
    """Looks after one and two seconds: what is filled by then; a quarter of a block is not filled far enough."""
    tenth = "compute 100ms\n"
    text = (f"mmap a 64M at=auto\nwrite a 0 16M\n{15 * tenth}write a 16M 4M\n{10 * tenth}"
            + "".join(f"write a {20 + 2 * i}M 512K\n" for i in range(4)) + 10 * tenth)  # fmt: skip
    machine = machine_of(text, memory=256 << 20)
    half = run_with_looks(machine, 1.0)
    assert half["thp_collapse_alloc"] == 8
    assert machine.counters["thp_collapse_alloc"] == 10
    assert machine.counters["thp_split_page"] == 0
    again = machine_of(text, memory=256 << 20)
    run_with_looks(again, 1.0, least=0.25)
    assert again.counters["thp_collapse_alloc"] == 14
    assert half.times[TIMES.index("compute")] >= 1_750_000_000_000

