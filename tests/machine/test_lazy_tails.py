"""The records of a 2M folio's tail pages, which its fault does not write: they hold when something needs them."""

from __future__ import annotations

import numpy as np
import pytest
from support.machines import machine_of, pages_of

pytestmark = pytest.mark.sanitize

BOOT = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 15]
"""Free blocks by order of 16384 frames without the zero page and the first page table."""
HEAD = 1024
"""The first movable block: the page table has made the two below unmovable."""

LIFE = """
mmap a 2M
fill a 0 2M
munmap a 1M 64K
fork C
advise a 0 64K dontneed
in C advise a 0 64K dontneed
shrink
exit C
thp 2048 never
mmap b 256K
fill b 0 256K
munmap a 0 1M
munmap a 1088K 960K
munmap b 0 256K
thp 2048 always
mmap c 2M
fill c 0 2M
munmap c 4K 4K
"""


class Stepping:
    """Runs LIFE line by line, each time on a copy of the machine before."""

    def __init__(self):
        self.machine = machine_of(LIFE, "2048")

    def __call__(self, line):
        code = [text for text in LIFE.splitlines() if text]
        assert code[self.machine.position[0]] == line
        self.machine.run(ops=1)
        copy = self.machine.clone()
        for machine in (self.machine, copy):
            machine.validate()
        assert copy == self.machine
        self.machine = copy

    def huge(self):
        """Return nr_anon, nr_anon_partially_mapped, split and split_deferred of 2M folios."""
        stats = ("nr_anon", "nr_anon_partially_mapped", "split", "split_deferred")
        return tuple(self.machine.counters.stat(name, 9) for name in stats)

    def free(self):
        return self.machine.free_pages

    def mapcounts(self, region="a", process="P"):
        """Return how many pages of a region have each mapcount, 0: not mapped."""
        counts = pages_of(self.machine, region, process)["mapcount"]
        return {int(n): int((counts == n).sum()) for n in np.unique(counts)}


def test_the_life_of_a_block_of_2m():
    step = Stepping()
    assert (step.free(), step.machine.buddyinfo()) == (16382, BOOT)

    step("mmap a 2M")
    step("fill a 0 2M")
    assert step.free() == 16382 - 512 - 2  # PUD and PMD table
    assert step.huge() == (1, 0, 0, 0)
    pages = pages_of(step.machine, "a")
    assert set(pages["head"].tolist()) == {HEAD}
    assert pages["index"].tolist() == list(range(512))
    assert step.mapcounts() == {1: 512}

    step("munmap a 1M 64K")  # split_huge_pmd, and 16 pages that nobody maps (R17, R14)
    assert step.free() == 16382 - 512 - 3
    assert step.huge() == (1, 1, 0, 1)
    assert step.machine.counters["nr_unmapped"] == 16
    assert step.mapcounts() == {0: 16, 1: 496}

    step("fork C")  # page by page, into four tables
    assert step.free() == 16382 - 512 - 7
    assert step.mapcounts() == step.mapcounts(process="C") == {0: 16, 2: 496}

    step("advise a 0 64K dontneed")  # the child still maps these (R16)
    assert step.machine.counters["nr_unmapped"] == 16
    assert step.mapcounts() == {0: 32, 2: 480}
    assert step.mapcounts(process="C") == {0: 16, 1: 16, 2: 480}
    step("in C advise a 0 64K dontneed")
    assert step.machine.counters["nr_unmapped"] == 32
    assert step.huge() == (1, 1, 0, 1)

    before = step.machine.buddyinfo()
    step("shrink")  # R19: what is mapped becomes 480 small folios, the rest two free blocks of 16
    assert step.huge() == (0, 0, 1, 1)
    assert step.free() == 16382 - 480 - 7
    assert np.subtract(step.machine.buddyinfo(), before).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    pages = pages_of(step.machine, "a")
    mapped = [*range(16, 256), *range(272, 512)]
    assert pages["head"][mapped].tolist() == [HEAD + i for i in mapped]
    assert set(pages["order"][mapped].tolist()) == {0}
    assert step.mapcounts() == step.mapcounts(process="C") == {0: 32, 2: 480}

    step("exit C")
    assert step.free() == 16382 - 480 - 3
    assert step.mapcounts() == {0: 32, 1: 480}

    # The smallest movable blocks go first, which are the two that were freed.
    step("thp 2048 never")
    step("mmap b 256K")
    assert step.machine.pagetypeinfo()["movable"][:9] == [0, 0, 0, 0, 2, 0, 0, 0, 0]
    step("fill b 0 256K")
    freed = {*range(HEAD, HEAD + 16), *range(HEAD + 256, HEAD + 272)}
    assert freed < set(pages_of(step.machine, "b")["head"].tolist())
    assert step.mapcounts("b") == {1: 64}
    assert step.free() == 16382 - 480 - 64 - 5

    step("munmap a 0 1M")
    assert step.free() == 16382 - 240 - 64 - 5
    step("munmap a 1088K 960K")  # and the last of its tables
    step("munmap b 0 256K")
    assert (step.free(), step.machine.buddyinfo()) == (16382, BOOT)

    step("thp 2048 always")
    step("mmap c 2M")
    step("fill c 0 2M")  # the same frames, now as tails whose records were small folios'
    assert set(pages_of(step.machine, "c")["head"].tolist()) == {HEAD}
    assert step.free() == 16382 - 512 - 2
    assert step.mapcounts("c") == {1: 512}
    step("munmap c 4K 4K")
    assert step.huge() == (1, 1, 1, 2)
    assert step.machine.counters["nr_unmapped"] == 1
    assert step.mapcounts("c") == {0: 1, 1: 511}
