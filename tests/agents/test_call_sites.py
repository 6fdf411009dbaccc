"""Who maps the memory that advice is about."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from thp_agents.advice.call_sites import Site, call_sites, sites
from thp_agents.advice.lines import apply_and_undo
from thp_agents.advice.settings import NEVER, Setting

from thp_env.traces import parse_program

SCRIPT = """\
arena syscalls:sys_enter_mmap: addr: 0x00000000, len: 0x04000000, prot: 0x00000003, flags: 0x00000022, fd: 0xffffffff
\t          1019b3 __mmap (/usr/lib/x86_64-linux-gnu/libc.so.6)
  mmap64.c:58
\t            1166 make_arena (/opt/my program/arena)
  arena.c:5
\t            1090 _start (/opt/my program/arena)
  ??:0

arena syscalls:sys_enter_mmap: addr: 0x00000000, len: 0x00801000, prot: 0x00000003, flags: 0x00000022, fd: 0xffffffff
\t           98ac9 malloc (/usr/lib/libjemalloc.so.2)
\t            119d std::vector<int>::grow(unsigned long)+0x44 (/usr/lib/libstdc++.so.6.0.30)
\t            119d lib::Table::make() (/usr/lib/libtable.so)

arena syscalls:sys_enter_mmap: addr: 0x00000000, len: 0x00801000, prot: 0x00000003, flags: 0x00000022, fd: 0xffffffff
\t          1019b3 __mmap (/usr/lib/x86_64-linux-gnu/libc.so.6)

"""
SOURCE = """
#include <string.h>
#include <sys/mman.h>
__attribute__((noinline)) static char *make_arena(size_t n) {
    char *a = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    __asm__ volatile("" : : "r"(a) : "memory");
    return a;
}
int main(void) {
    memset(make_arena(64 << 20), 1, 64 << 20);
    return 0;
}
"""


def test_the_caller_is_the_first_that_is_no_allocator() -> None:
    arena, table = "/opt/my program/arena", "/usr/lib/libtable.so"
    assert sites(SCRIPT.splitlines()) == {
        "mappings of up to 64 MiB": [(Site("make_arena", "arena.c:5", arena), 1, 64 << 20)],
        "mappings of up to 16 MiB": [(Site("lib::Table::make()", "", table), 1, 0x801000)],
    }
    assert sites([]) == {}


@pytest.mark.parametrize("owner", ["", " of cc1"])
def test_lines_name_the_caller(owner: str) -> None:
    program = parse_program("mmap m1 64M at=slot\nwrite m1 0 64M\n")
    advised = Setting(((9, "madvise"),), advice=((f"mappings of up to 64 MiB{owner}", "hugepage"),))
    lines = apply_and_undo(advised, NEVER, [], program, sites=sites(SCRIPT.splitlines()))
    assert "#   mapped by make_arena (arena.c:5), /opt/my program/arena: 1 calls, 65,536 KiB" in lines
    assert any("strace -k" in line for line in apply_and_undo(advised, NEVER, [], program))


def test_a_program_that_runs(tmp_path: Path) -> None:
    if shutil.which("perf") is None or shutil.which("gcc") is None:
        pytest.skip("needs perf and gcc")
    (tmp_path / "arena.c").write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-O1", "-o", "arena", "arena.c"], cwd=tmp_path, check=True)
    found = call_sites([str(tmp_path / "arena")], {})
    if not found:
        pytest.skip("perf may not trace system calls here")
    [(site, calls, size)] = found["mappings of up to 64 MiB"]
    assert (site.function, calls, size) == ("make_arena", 1, 64 << 20)
    assert site.line == "arena.c:5"


def test_without_perf_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert call_sites(["true"], {}) == {}
