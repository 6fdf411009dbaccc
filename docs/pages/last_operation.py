"""How long the last operation of a small program takes in the simulator."""

from __future__ import annotations

from thp_env.machine import Machine, MachineConfig
from thp_env.traces import parse_program


def simulated_ns(text: str) -> float:
    """Return the simulated ns that the last operation of a trace program takes on 16 MiB of memory."""
    program = parse_program(text)
    machine = Machine(program, MachineConfig(memory=16 << 20))
    machine.run(ops=len(program) - 1)
    before = machine.clock_ps
    machine.run()
    return (machine.clock_ps - before) / 1000
