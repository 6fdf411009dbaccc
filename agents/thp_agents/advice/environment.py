"""Variables that change what an allocator or a runtime asks the kernel for; each takes a recording of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thp_env.traces import Program

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tunable:
    """A variable that a program may gain from.

    Attributes:
        library: the start of the name of a file that is mapped where the variable has a meaning.
        name, value: the variable.
        joint: what stands between several values of it.
        what: what it does, for the reader.
    """

    library: str
    name: str
    value: str
    joint: str
    what: str


TUNABLES = (
    Tunable("libjvm.so", "JAVA_TOOL_OPTIONS", "-XX:+UseTransparentHugePages", " ", "the heap asks for folios of 2M"),
    Tunable("libjemalloc", "MALLOC_CONF", "thp:always", ",", "jemalloc asks for folios of 2M for all its memory"),
    Tunable("libtcmalloc", "TCMALLOC_RELEASE_RATE", "0", ",", "tcmalloc keeps what is freed"),
    Tunable("libc.so", "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", ":", "malloc asks for folios of 2M"),
)
"""In the order in which they are looked for: the first library that is mapped decides.

jemalloc: doc/jemalloc.xml, opt.thp. gperftools' tcmalloc has no option about large folios; how fast it gives memory
back decides whether they are torn. glibc 2.35 and later: malloc/malloc-hugepages.c, which acts where
/sys/kernel/mm/transparent_hugepage/enabled is madvise.
"""


def tunables(program: Program) -> list[Tunable]:
    """Return the variables that have a meaning for a recorded program."""
    files = {name.rpartition(":")[0] or name for region in program.regions for name in (region, _owned(region))}
    for tunable in TUNABLES:
        if any(file.startswith(tunable.library) for file in files):
            return [tunable]
    return []


def _owned(region: str) -> str:
    """Return a region's name without the process that it belongs to."""
    owner, _, name = region.partition(".")
    return name if owner[-1:].isdigit() and not owner.startswith("lib") else region


def join_variables(tunable: Tunable, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable with what it is set to already."""
    before = environment.get(tunable.name, "")
    return {tunable.name: f"{before}{tunable.joint}{tunable.value}" if before else tunable.value}
