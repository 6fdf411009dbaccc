"""process_madvise: who may advise whom, what of, and how far a vector of ranges goes (R48)."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from support.features import MAINLINE
from support.machines import machine_of, orders_of, pages_of

from thp_env.machine import KIND_FOLIO, KIND_SWAP, Machine, MachineError, layout
from thp_env.machine.operations import rows
from thp_env.traces import ProgramBuilder, ProgramError

pytestmark = pytest.mark.sanitize

TWO = "mmap a 4M\nwrite a 0 4M\nfork C\nin C write a 0 4M\n"
"""Parent and child, each with 4M of its own 4K pages."""
REMOTE = MAINLINE | {"remote_hints"}


def run(text: str, **config) -> Machine:
    machine = machine_of(text, **config)
    machine.run(go_on=True)
    machine.validate()
    return machine


def child_orders(machine: Machine) -> list[int | None]:
    return [int(p["order"]) if p["kind"] == KIND_FOLIO else None for p in pages_of(machine, "a", "C")]


def start(machine: Machine) -> int:
    return machine.region("a")[0]


def test_collapse_for_another_process():
    machine = run(TWO + "iovec a 0 2M\nprocess_madvise C collapse\n")
    assert child_orders(machine) == [9] * 512 + [0] * 512
    assert orders_of(machine, "a") == [0] * 1024
    machine = run(TWO)
    assert machine.process_madvise("C", [(start(machine), 2 << 20)], "collapse") == 2 << 20
    assert child_orders(machine) == [9] * 512 + [0] * 512


@pytest.mark.parametrize("advice", sorted(set(layout.ADVICE) - {"cold", "pageout", "willneed", "collapse"}))
def test_other_advice_about_others_is_refused(advice):
    machine = run(TWO + f"iovec a 0 2M\nprocess_madvise C {advice}\n")
    assert machine.error == errno.EINVAL
    assert machine.process_madvise("C", [(start(machine), 4096)], advice) == -errno.EINVAL
    assert run(TWO + "iovec a 0 2M\nprocess_madvise P hugepage\n").error == 0  # of itself


def test_a_set_of_sizes_for_another_process():
    text = "thp 64 madvise\nthp 16 madvise\nmmap a 2M\nwrite a 1M 4K\nfork C\n"
    wanted = text + "iovec a 0 1M\nprocess_madvise C hugepage orders=0x4\nin C write a 0 4K\nwrite a 0 4K\n"
    machine = run(wanted, features=REMOTE)
    assert child_orders(machine)[:5] == [2] * 4 + [None]
    assert orders_of(machine, "a")[0] == 0  # the caller has no hint
    assert run(wanted).error == 0
    assert child_orders(run(wanted))[:2] == [0, None]  # mainline refuses, and the program goes on
    machine = run(text, features=REMOTE)
    assert machine.process_madvise("C", [(start(machine), 1 << 20)], "hugepage", orders=1 << 4) == 1 << 20
    assert machine.process_madvise("C", [(start(machine), 1 << 20)], "cold", orders=1 << 4) == -errno.EINVAL


def test_ranges_count_up_to_the_first_that_fails():
    text = "swap 8M\nmmap a 1M\nfill a 0 1M\nfork C\nin C fill a 0 1M\nin C munmap a 64K 16K\n"
    machine = run(text)
    a = start(machine)
    ranges = [(a, 16384), (a + 65536, 65536), (a + 16384, 16384)]
    assert machine.process_madvise("C", ranges, "pageout") == 16384
    kinds = pages_of(machine, "a", "C")["kind"]
    assert list(kinds[:8]) == [KIND_SWAP] * 4 + [KIND_FOLIO] * 4
    assert (kinds[20:32] == KIND_SWAP).all()  # what lies behind the hole is advised all the same
    assert machine.process_madvise("C", ranges[1:], "pageout") == -errno.ENOMEM
    assert machine.process_madvise("C", [], "pageout") == 0


def test_an_address_between_pages_is_refused():
    machine = run(TWO)
    assert machine.process_madvise("C", [(start(machine) + 1, 4096)], "cold") == -errno.EINVAL


def test_without_cap_sys_nice():
    machine = run(TWO + "capdrop sys_nice\nfork D\n")
    one = [(start(machine), 2 << 20)]
    assert machine.process_madvise("C", one, "collapse") == -errno.EPERM
    assert machine.process_madvise("C", one, "hugepage") == -errno.EINVAL  # looked at first
    assert machine.process_madvise("P", one, "hugepage") == 2 << 20
    assert machine.process_madvise("C", one, "cold", caller="D") == -errno.EPERM
    assert machine.process_madvise("P", one, "cold", caller="C") == 2 << 20


def test_a_process_that_has_ended():
    machine = run(TWO + "exit C\n")
    assert machine.process_madvise("C", [(start(machine), 4096)], "cold") == -errno.ESRCH
    with pytest.raises(MachineError, match="the caller has ended"):
        machine.process_madvise("P", [(start(machine), 4096)], "cold", caller="C")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("Q", [], "cold"), "process is 'Q': one of P, C"),
        (("C", [], "freeze"), "advice is 'freeze': one of normal"),
    ],
)
def test_bad_arguments_are_named(args, said):
    with pytest.raises(MachineError, match=said):
        run(TWO).process_madvise(*args)
    with pytest.raises(MachineError, match="it has a bit for each of the orders"):
        run(TWO).process_madvise("C", [], "hugepage", orders=2)


def test_a_vector_must_be_there():
    b = ProgramBuilder()
    b.mmap("a", 4096)
    with pytest.raises(ProgramError, match="needs a range: name it with iovec"):
        b.process_madvise("P", "cold")
    b.process_madvise("P", "cold", [("a", 0, 4096)])
    program = b.build()
    ops = program.ops.copy()
    rows(ops, "process_madvise")["ranges"][-1] = 2
    with pytest.raises(ProgramError, match="operation 2: ranges that no iovec before it names"):
        replace(program, ops=ops).check()


def test_it_costs_one_call():
    clock = run(TWO).clock_ps
    vector = "".join(f"iovec a {i * 64}K 64K\n" for i in range(8))
    assert run(TWO + vector + "process_madvise C willneed\n").clock_ps - clock == machine_of("").config.clock["syscall"]
