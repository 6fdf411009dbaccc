"""`time_by_vma`: time that is kept by VMA."""

from __future__ import annotations

import pytest
from support.machines import machine_of

from thp_env.machine import Status

pytestmark = pytest.mark.sanitize

TWO = """
mmap a 8M
mmap b 8M at=auto
write a 0 8M
write b 0 8M
access a 0 8M uniform count=10000 ns=10
access b 0 8M chase count=10000 ns=10 weight=3
"""


CUTS = [{"accesses": 1}, {"accesses": 10}, {"accesses": 1000}, {"choices": 1}, {"ps": 100_000}]


@pytest.mark.parametrize("limit", CUTS)
def test_it_does_not_depend_on_how_a_run_is_cut(limit):
    whole = machine_of(TWO, "64", time_by_vma=True)
    whole.run()
    cut = machine_of(TWO, "64", time_by_vma=True)
    step = dict(limit)
    while cut.run(**({"until_ps": cut.clock_ps + step["ps"]} if "ps" in step else step)) == Status.WINDOW:
        pass
    assert cut == whole
    of_vmas = [int(whole.smaps(v.id)["times"].sum()) for v in whole.vmas()]
    assert all(of_vmas)
    assert sum(of_vmas) <= whole.clock_ps


def test_what_happens_in_a_pause_is_charged_to_nobody_else():
    machine = machine_of(TWO, time_by_vma=True)
    machine.run(accesses=3)
    before = machine.smaps(machine.vmas()[0].id)["times"].sum()
    clock = machine.clock_ps
    assert machine.madvise(machine.vmas()[0].id, "normal") == 0
    assert machine.clock_ps > clock
    assert machine.smaps(machine.vmas()[0].id)["times"].sum() == before
