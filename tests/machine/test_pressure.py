"""Pressure stall information: Linux's arithmetic, and who stalls."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from thp_env.machine import Machine, MachineConfig, Pressure, Status
from thp_env.traces import parse_program

MIB = 1 << 20
PERIOD = 2_001_000
"""Microseconds between two updates of the averages."""
WEIGHTS = (1677, 1981, 2034)
"""Of 2048: what an average over 10, 60 and 300 s keeps of itself (include/linux/psi.h)."""
with (Path(__file__).parents[1] / "data/pressure.csv").open() as lines:
    LIVE = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
"""memory.pressure of a group on Linux 6.18 whenever its averages moved: a process thrashes for 12 s, then sleeps."""
THRASH = "swap 64M\nmmap a 16M\ncgroup 1\nlimit 4M group=1\n" + "write a 0 16M\n" * 100


def built(text: str, memory: int = 256) -> Machine:
    return Machine(parse_program(text), MachineConfig(memory=memory * MIB))


def test_the_formula_is_the_kernel_s() -> None:
    """The totals were read up to 40 ms after the averages moved: 2 % of a period, of which avg10 takes a fifth."""
    assert len(LIVE) == 11
    for before, after in pairwise(LIVE[1:]):
        share = (after["some_us"] - before["some_us"]) / PERIOD
        for seconds, weight in zip((10, 60, 300), WEIGHTS, strict=True):
            expected = before[f"some_avg{seconds}"] * weight / 2048 + 100 * share * (1 - weight / 2048)
            assert after[f"some_avg{seconds}"] == pytest.approx(expected, abs=0.6 if share else 0.02)


def test_averages_are_linux_s() -> None:
    """Period by period, in fixed point, from the totals that the machine shows at their ends."""
    machine = built(THRASH + "compute 30s\n")
    total, averages = 0, [0, 0, 0]
    for n in range(1, 12):
        end = n * PERIOD * 10**6
        while machine.clock_ps < end and machine.run(until_ps=end) == Status.WINDOW:
            pass
        stall = machine.control_groups()[1].pressure.some
        sample = min(stall.total - total, PERIOD)
        total += sample
        percent = sample * 100 // PERIOD * 2048
        averages = [
            (a * weight + percent * (2048 - weight) + (2047 if percent >= a else 0)) // 2048
            for a, weight in zip(averages, WEIGHTS, strict=True)
        ]
        if machine.clock_ps >= end + PERIOD * 10**6:
            break
        assert (stall.avg10, stall.avg60, stall.avg300) == pytest.approx([a / 2048 for a in averages], abs=0.011), n
    assert stall.avg300 > 0


def test_some_is_full_in_a_group_where_one_process_runs() -> None:
    columns = ("avg10", "avg60", "avg300", "us")
    assert all(row[f"some_{column}"] == row[f"full_{column}"] for row in LIVE for column in columns)
    machine = built(THRASH)
    machine.run()
    group = machine.control_groups()[1].pressure
    assert group.some == group.full
    assert group.some.total > 0


def test_averages_end_at_nothing() -> None:
    machine, later = built(THRASH), built(THRASH + "compute 90000s\n")
    machine.run()
    later.run()
    assert later.control_groups()[1].pressure.some == (0, 0, 0, machine.control_groups()[1].pressure.some.total)


def test_a_stall_is_the_group_s_and_the_system_s() -> None:
    text = "swap 64M\nmmap a 16M\nfork Q\ncgroup 1\nin Q cgroup 2\nlimit 4M group=1\nin Q write a 0 8M\n"
    machine = built(text)
    machine.run()
    assert machine.pressure.some.total == 0, "no limit, and memory enough"
    machine = built(text + "write a 0 8M\n")
    machine.run()
    default, stalling, other = (group.pressure for group in machine.control_groups())
    nothing = Pressure((0, 0, 0, 0), (0, 0, 0, 0))
    assert default == other == nothing
    assert stalling == machine.pressure
    swapping = machine.counters.time_ps("swapping") / 1e6
    assert stalling.full.total == pytest.approx(swapping, rel=0.3), "reclaim takes about what swapping takes"


def test_daemons_stall_the_system_alone() -> None:
    machine = built("swap 64M\nmmap a 64M\ncgroup 1\nwrite a 0 56M\n", 48)
    machine.run()
    assert machine.counters["pageoutrun"] > 0, "kswapd ran"
    group, system = machine.control_groups()[1].pressure, machine.pressure
    assert system.some.total > system.full.total == group.full.total


def test_reading_changes_nothing() -> None:
    machine, other = built(THRASH + "compute 5s\n"), built(THRASH + "compute 5s\n")
    machine.run()
    other.run()
    assert machine.pressure.some.avg10 > 0
    assert machine.control_groups()
    assert machine == other


def test_what_is_no_loss_of_the_working_set_stalls_nobody() -> None:
    machine = built("swap 64M\nmmap a 16M\ncgroup 1\nwrite a 0 8M\nreclaim group=1\nread a 0 8M\n")
    machine.run()
    assert machine.counters["pswpin"] == 2048
    assert machine.control_groups()[1].pressure.some.total == 0, "neither force_empty nor refaults of idle pages do"
