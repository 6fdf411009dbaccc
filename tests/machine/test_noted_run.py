"""`Batch.note`: runs to the end, with facts along the way."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, small_program

from thp_env.machine import Machine, MachineConfig, MachineError, Status
from thp_env.machine.batch import Batch


def machines(n: int, **config: bool) -> list[Machine]:
    return [Machine(small_program(i), MachineConfig(memory=48 * MIB, **config)) for i in range(n)]


def test_a_noted_run_is_the_run() -> None:
    batch, plain = Batch(machines(1), 2), machines(3)
    for noted, machine, other in zip(batch.note(copies := machines(3), 16), copies, plain, strict=True):
        assert noted.status == other.run(go_on=True) == Status.DONE
        assert machine == other
        assert (noted.snapshot.raw[-1] == Batch([other]).snapshot().raw[0]).all()


def test_points_are_those_of_windows_of_the_same_length() -> None:
    [noted] = Batch(machines(1)).note(machines(1), most=1000, ps=400_000_000)
    machine, clocks = machines(1)[0], [0]
    while machine.run(until_ps=machine.clock_ps + 400_000_000, go_on=True) == Status.WINDOW:
        clocks.append(machine.clock_ps)
    assert noted.snapshot["clock"].tolist() == [machines(1)[0].clock_ps, *clocks[1:], machine.clock_ps]
    assert len(clocks) > 10


def test_too_many_points_are_thinned_and_the_ends_stay() -> None:
    [dense], [thin] = (Batch(machines(1)).note(machines(1), most, ps=400_000_000) for most in (1000, 8))
    assert 4 <= len(thin.snapshot.raw) <= 10
    for i in (0, -1):
        assert (thin.snapshot.raw[i] == dense.snapshot.raw[i]).all()
    assert np.isin(thin.snapshot["clock"][:3], dense.snapshot["clock"]).all()


def test_vmas_are_noted_at_each_point() -> None:
    [machine] = machines(1, time_by_vma=True)
    [noted] = Batch(machines(1)).note([machine], 8, vmas=True)
    assert len(noted.vmas_at) == len(noted.snapshot.raw)
    assert noted.vmas_at.sum() == len(noted.vmas)
    last = noted.vmas[-int(noted.vmas_at[-1]) :]
    for row in last:
        assert row.tobytes() == machine.smaps(int(row["id"])).tobytes()
    assert {v.id for v in machine.vmas()} >= set(last["id"].tolist())


def test_what_makes_no_sense_is_refused() -> None:
    batch, [machine] = Batch(machines(1)), machines(1)
    with pytest.raises(MachineError, match="is running"):
        batch.note([machine, machine])
    with pytest.raises(MachineError, match="most is a whole number of at least 1"):
        batch.note([machine], 0)
    assert batch.note([]) == []
