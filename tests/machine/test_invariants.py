"""Random programs: after every operation all counts agree with the page tables, whatever fails on the way."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.machines import check_seen_from_outside, machine_of, run
from support.programs import programs

from thp_env.machine import MachineError, Status
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)


def step_through(machine, look=True):
    while (status := machine.run(ops=1, go_on=True)) == Status.WINDOW:
        machine.validate()
        if look:
            check_seen_from_outside(machine)
    machine.validate()
    return status


@QUIET
@given(programs(), st.booleans())
def test_counts_agree_after_every_operation(program, shadow):
    step_through(machine_of(program, shadow_tlb=shadow))


@QUIET
@given(programs(), st.sampled_from([(16 << 20, 0, 65536), (64 << 20, 24, 65536), (64 << 20, 0, 8)]))
def test_running_out_of_frames_tables_or_vmas_leaves_a_consistent_machine(program, limits):
    memory, tables, vmas = limits
    machine = machine_of(program, memory=memory, max_tables=tables, max_vmas=vmas)
    status = step_through(machine)
    assert status in (Status.DONE, Status.OOM)


@pytest.mark.full
@settings(QUIET, max_examples=20000)
@given(programs(operations=60), st.booleans())
def test_counts_agree_in_long_programs(program, small):
    step_through(machine_of(program, memory=(24 if small else 128) << 20), look=False)


@QUIET
@given(programs())
def test_no_frame_is_lost_when_the_process_ends(program):
    b = ProgramBuilder("end")
    b.exit("P")
    program.ops.setflags(write=True)
    ended = type(program)(
        **{**program.__dict__, "ops": __import__("numpy").concatenate([program.ops, b.build().ops])}
    )
    machine = machine_of(ended)
    machine.run(go_on=True)
    machine.validate()
    assert machine.process("P") is None
    assert machine.vmas() == []
    counters = machine.counters
    for name in ("nr_resident", "nr_untouched", "nr_unmapped", "nr_page_table", "nr_anon", "nr_anon_partially_mapped"):
        assert counters[name] == 0, name
    total = machine.config.memory // 4096
    huge_zero = 512 if counters["thp_zero_page_alloc"] and machine.free_pages != total - 1 else 0
    assert machine.free_pages == total - 1 - huge_zero


def test_validate_finds_a_wrong_count():
    """A scan that always passed would make the tests above worthless."""
    machine = run("mmap a 2M\nwrite a 0 2M\n", "2048")
    bytes_ = bytearray(machine.save())
    clock = machine.clock_ps.to_bytes(8, "little")
    assert bytes_.count(clock) >= 1
    with pytest.raises(MachineError):
        _reload(machine, bytes_.replace(clock, (machine.clock_ps + 1).to_bytes(8, "little"), 1))


def _reload(machine, data):
    machine.load(bytes(data))
    machine.validate()
