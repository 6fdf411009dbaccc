"""Page walks of a host: a core that is fitted to what was measured takes as long when the same is simulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.machines import machine_of

from thp_env.machine.clock import COSTS
from thp_env.machine.cores import ABSENT, CORES, Tlb
from thp_env.machine.costs_file import CostsError, HostCosts, costs_in_force, format_costs, read_costs
from thp_env.machine.counters import TIMES
from thp_env.machine.host_walks import random_walks, with_walks
from thp_env.machine.prices import PAGES_PER_MIB

CYCLE = COSTS["cycle"].ps / 1000
# Measured on a Zen 5 under KVM: `thp-env calibrate`.
ZEN5_GUEST = {64: 3.3, 128: 7.7, 256: 13.1, 512: 25.8, 1024: 52.0}
COUNT = 200_000


def host(walk: dict[int, float]) -> HostCosts:
    return HostCosts({name: cost.ps / 1000 for name, cost in COSTS.items()}, {}, {}, {}, walk)


def added(core: Tlb, mib: int) -> float:
    """Return the ns that 4K pages add to a random access as against 2M."""
    text = f"mmap a {mib}M at=auto\nwrite a 0 {mib}M\naccess a 0 {mib}M uniform count={COUNT} ns=0\n"
    both = []
    for sizes in ("", "2048"):
        machine = machine_of(text, sizes, memory=2 * mib << 20, core=core)
        for op in (1, 2):
            before = machine.counters
            machine.run(ops=1 + (op == 1))
        machine.run()
        both.append((machine.counters - before).times[TIMES.index("translation")] / 1000 / COUNT)
    return both[0] - both[1]


@pytest.mark.parametrize(
    ("name", "walk"),
    [
        ("zen5", ZEN5_GUEST),
        ("zen4", ZEN5_GUEST),
        ("zen5", {128: 5.0, 256: 7.5, 1024: 9.4}),
        ("skylake", {128: 8.0, 256: 9.4, 1024: 10.0}),
        ("cortex-a76", {256: 20.0}),
    ],
)
def test_random_accesses_take_as_long_as_on_the_host(name: str, walk: dict[int, float]) -> None:
    fitted = host(walk).core(CORES[name])
    for mib, ns in walk.items():
        assert added(fitted, mib) == pytest.approx(ns, rel=0.35, abs=2), mib


def test_a_core_whose_walks_are_as_measured_stays_as_it_is() -> None:
    core = CORES["skylake"]
    own = {mib: random_walks(core, mib * PAGES_PER_MIB)[1] for mib in (64, 256, 1024)}
    assert with_walks(core, own) == core
    assert with_walks(core, {}) == core
    assert with_walks(core, {1: 1000.0}) == core  # the TLB holds it
    virtual = replace(core, nested=(1, 64))
    assert with_walks(virtual, ZEN5_GUEST) == virtual


def test_slow_hosts_have_lines_in_no_cache_and_fast_ones_do_not() -> None:
    assert with_walks(CORES["zen5"], {mib: ns / CYCLE for mib, ns in ZEN5_GUEST.items()}).nested != ABSENT
    assert with_walks(CORES["zen5"], dict.fromkeys(ZEN5_GUEST, 40.0)).nested == ABSENT


def test_machines_have_the_walks_of_the_costs_in_force(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text(format_costs(host(ZEN5_GUEST)))
    assert read_costs(path).walk == ZEN5_GUEST
    text = "mmap a 64M at=auto\nwrite a 0 64M\naccess a 0 64M uniform count=100000 ns=0\n"

    def took() -> int:
        machine = machine_of(text, memory=256 << 20, core="zen5")
        machine.run()
        return machine.counters["walk_cycles"]

    before = took()
    with costs_in_force(path):
        slower = took()
    path.write_text(format_costs(host({})))
    with costs_in_force(path):
        assert took() == before
    assert slower != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("walk = 3\n", r"walk is a table: \[walk\]"),
        ("[walk]\n8 = 5\n", r"8 in \[walk\] is no memory in MiB from 32 to 1048576"),
        ("[walk]\nmuch = 5\n", r"much in \[walk\] is no memory in MiB"),
        ("[walk]\n99999999999 = 5\n", r"is no memory in MiB"),
        ("[walk]\n64 = -5\n", r"64 = -5 in \[walk\]: write ns from 0 to 10000, or no line"),
        ("[walk]\n64 = 1e5\n", r"write ns from 0 to 10000"),
        ("[walk]\n64 = nan\n", r"write ns from 0 to 10000"),
        ("[walk]\n64 = true\n", r"write ns from 0 to 10000"),
        ("[walk]\n64 = 'slow'\n", r"write ns from 0 to 10000"),
    ],
)
def test_walks_that_make_no_sense_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "costs.toml"
    costs = format_costs(host({}))
    path.write_text(costs + text if "[" in text else text + costs)
    with pytest.raises(CostsError, match=said):
        read_costs(path)
