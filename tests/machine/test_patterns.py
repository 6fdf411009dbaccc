"""Access patterns: the distribution over pages is the one that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from support.machines import PAGE, free_clock, machine_of, pages_of, program_of

from thp_env.machine import LAYOUT_YOUNG, Status
from thp_env.machine.cores import Tlb
from thp_env.traces import ProgramBuilder

ONE = Tlb("one", (1, 1), None, None, pwc=((1, 0), (1, 0), (1, 0)))
"""A TLB of one entry sees every change of page."""


def visits(pattern: str, pages: int, count: int, **options) -> np.ndarray:
    """Return the page of each access: every access is a window of its own and leaves one accessed bit."""
    b = ProgramBuilder("pattern", seed=options.pop("seed", 1))
    b.mmap("a", pages * PAGE)
    b.touch("a", 0, pages * PAGE)
    b.access("a", 0, pages * PAGE, pattern, count, ns=1, **options)
    machine = machine_of(b.build(), memory=64 << 20, core=ONE, clock=free_clock())
    machine.run(ops=2)
    vma = machine.vmas()[0].id
    seen = np.zeros(count, np.int64)
    machine.smaps(vma, clear_refs=True)
    for i in range(count):
        clock = machine.clock_ps
        machine.run(until_ps=clock + 1)
        young = np.flatnonzero(pages_of(machine, "a")["flags"] & LAYOUT_YOUNG)
        # One entry: an access to the page of the access before does not walk.
        seen[i] = young[0] if len(young) else seen[i - 1]
        machine.smaps(vma, clear_refs=True)
    assert machine.run() == Status.DONE
    return seen


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    return float(((observed - expected) ** 2 / expected).sum())


def test_stride_wraps_and_visits_pages_in_order():
    seen = visits("stride", 8, 64, stride=1024)
    assert list(seen) == [i // 4 % 8 for i in range(64)]
    seen = visits("stride", 7, 20, stride=3 * PAGE)
    assert list(seen) == [i * 3 % 7 for i in range(20)]


@pytest.mark.parametrize("pages", [1, 2, 3, 64, 100, 511])
def test_chase_visits_each_page_once_a_round(pages):
    seen = visits("chase", pages, 3 * pages)
    rounds = seen.reshape(3, pages)
    assert (np.sort(rounds, axis=1) == np.arange(pages)).all()
    assert (rounds == rounds[0]).all()
    if pages > 60:
        # No arithmetic pattern: neighbours in time are not neighbours in space.
        assert (np.abs(np.diff(rounds[0])) == 1).mean() < 0.1
        assert len(np.unique(np.diff(rounds[0]) % pages)) > pages / 4


def test_uniform_is_uniform():
    counts = np.bincount(visits("uniform", 16, 4000), minlength=16)
    assert chi_square(counts, np.full(16, 250.0)) < 37.7  # 15 degrees of freedom, p = 0.001


def test_a_uniform_draw_does_not_depend_on_the_draw_before():
    seen = visits("uniform", 4, 4000)
    pairs = np.bincount(seen[:-1] * 4 + seen[1:], minlength=16)
    assert chi_square(pairs, np.full(16, len(seen) / 16)) < 37.7


@pytest.mark.parametrize("exponent", [0.5, 0.99, 1.4])
def test_zipf_has_the_exact_weights(exponent):
    pages, n = 30, 6000  # every rank has its own bin
    seen = visits("zipf", pages, n, zipf=exponent, scatter=False)
    weights = np.arange(1, pages + 1) ** -exponent
    assert chi_square(np.bincount(seen, minlength=pages), n * weights / weights.sum()) < 58.3  # 29 degrees


def test_zipf_scatters_its_ranks_over_the_range():
    plain, spread = (visits("zipf", 64, 3000, scatter=s) for s in (False, True))
    a, b = (np.bincount(s, minlength=64) for s in (plain, spread))
    assert np.argmax(a) == 0
    assert not (np.argsort(-b)[:6] == np.arange(6)).all()
    top = np.sort(b)[::-1].astype(float)[:8]
    weights = np.arange(1, 65) ** -0.99
    assert np.allclose(top / 3000, weights[:8] / weights.sum(), atol=0.02)


def test_gauss_has_its_center_and_width():
    seen = visits("gauss", 200, 6000, center=0.3, sigma=0.05)
    assert abs(seen.mean() + 0.5 - 60) < 0.6
    assert abs(seen.std() - 10) < 0.5


def test_writes_have_the_share_that_was_asked_for():
    """Only writes leave content behind and allocate pages."""
    text = "mmap a 16M\naccess a 0 16M chase count=4096 write={}\n"
    for share in (0, 0.25, 1):
        machine = machine_of(text.format(share), memory=64 << 20)
        machine.run()
        assert abs(machine.process("P")[1] / 4096 - share) < 0.03
    assert machine.process("P")[1] == 4096


def test_every_operation_has_its_own_stream():
    first, second = (visits("uniform", 64, 100, seed=s) for s in (1, 2))
    assert (first != second).any()
    line = "access a 0 1M uniform count=50\n"
    machine = machine_of(program_of("mmap a 1M\n" + line + line))
    machine.run(ops=2)
    touched = int((pages_of(machine, "a")["kind"] > 0).sum())
    machine.run()
    assert int((pages_of(machine, "a")["kind"] > 0).sum()) > touched
