"""Random programs: after every operation all counts agree with the page tables, whatever fails on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.machines import check_seen_from_outside, machine_of, run, with_checksum
from support.programs import QUIET, programs

from thp_env.machine import MachineError, Status
from thp_env.machine.features import FEATURES
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize


kernels = st.one_of(
    st.just({}),
    st.just({"arch": "arm64"}),
    st.just({"arch": "arm64", "features": "oppo-5.15"}),
    st.builds(lambda names: {"arch": "arm64", "features": names}, st.frozensets(st.sampled_from(FEATURES))),
)
"""Architectures and switches of the kernel."""


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


@QUIET
@given(programs(forks=True), kernels)
def test_counts_agree_when_processes_share_pages(program, kernel):
    step_through(machine_of(program, **kernel), look=False)


@pytest.mark.full
@settings(QUIET, max_examples=20000, derandomize=False)
@given(st.one_of(programs(operations=60), programs(operations=60, forks=True)), st.booleans(), kernels)
def test_counts_agree_in_long_programs(program, small, kernel):
    step_through(machine_of(program, memory=(24 if small else 128) << 20, **kernel), look=False)


@QUIET
@given(programs())
def test_no_frame_is_lost_when_the_process_ends(program):
    b = ProgramBuilder("end")
    b.exit("P")
    machine = machine_of(replace(program, ops=np.concatenate([program.ops, b.build().ops])))
    machine.run(go_on=True)
    machine.validate()
    assert machine.process("P") is None
    assert machine.vmas() == []
    counters = machine.counters
    for name in ("nr_resident", "nr_untouched", "nr_unmapped", "nr_page_table", "nr_anon", "nr_anon_partially_mapped"):
        assert counters[name] == 0, name
    total = machine.config.memory // 4096
    huge_zero = 512 if counters["thp_zero_page_alloc"] and machine.free_pages != total - 1 else 0
    assert machine.free_pages == total - 1 - huge_zero - counters["nr_file_pages"] - counters["nr_held"]


def test_validate_finds_a_wrong_count():
    """A scan that always passed would make the tests above worthless."""
    machine = run("mmap a 2M\nwrite a 0 2M\n", "2048")
    data = machine.save()
    clock, later = (ps.to_bytes(8, "little") for ps in (machine.clock_ps, machine.clock_ps + 1))
    machine.load(with_checksum(data.replace(clock, later, 1)[:-8]))
    with pytest.raises(MachineError, match="times do not add up to the clock"):
        machine.validate()
