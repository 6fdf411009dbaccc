"""Random operations: after each one all counts agree with the page tables, whatever fails on the way."""

from __future__ import annotations

import pytest
from hypothesis import settings
from support.machines import run, with_checksum
from support.programs import QUIET
from support.state_machine import RandomMachine

from thp_env.machine import MachineError

pytestmark = pytest.mark.sanitize


class TestRandomMachine(RandomMachine.TestCase):
    settings = settings(QUIET, max_examples=30, stateful_step_count=50)


@pytest.mark.full
class TestManyRandomMachines(RandomMachine.TestCase):
    settings = settings(QUIET, max_examples=2000, stateful_step_count=100, derandomize=False)


def test_validate_finds_a_wrong_count():
    """A scan that always passed would make the tests above worthless."""
    machine = run("mmap a 2M\nwrite a 0 2M\n", "2048")
    data = machine.save()
    clock, later = (ps.to_bytes(8, "little") for ps in (machine.clock_ps, machine.clock_ps + 1))
    with pytest.raises(MachineError, match="times do not add up to the clock"):
        machine.load(with_checksum(data.replace(clock, later, 1)[:-8]))
    machine.validate()
