"""Saved states may come from strangers: a damaged one is refused, or is a machine that runs without harm and ends."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import machine_of, with_checksum
from support.programs import QUIET

from thp_env.machine import MachineError, Status

pytestmark = pytest.mark.sanitize

WORK = """
seed 3
swap 4M
mmap a 4M
mmap b 2M at=auto
mmap f 64K file=1
read f 0 64K
thp 64 always
thp 2048 always
access a 0 4M zipf count=400 ns=3 write=0.5
advise b 0 2M hugepage
write b 0 2M
fork C
pin a 1M 8K
limit 4M
access b 0 2M uniform count=300 ns=1 write=1 weight=7
in C write a 2M 1M
advise a 2M 1M pageout
khugepaged 2
mremap a 2M 1M c
exit C
reclaim
shrink
swapoff
"""


def saved(arch: str) -> list[bytes]:
    machine = machine_of(WORK, memory=16 << 20, max_page_tables=96, max_vmas=64, arch=arch, shadow_tlb=True)
    states = [machine.save()]
    while machine.run(ops=1, go_on=True) == Status.WINDOW:
        states.append(machine.save())
    return states


STATES = {arch: saved(arch) for arch in ("x86_64", "arm64")}
WORDS = st.one_of(st.sampled_from([0, 1, 0xFFFFFFFF, 0x7FFFFFFF]), st.integers(0, 65535), st.integers(0, 0xFFFFFFFF))


@QUIET
@given(st.sampled_from(sorted(STATES)), st.integers(0, 20), st.integers(1, 3), st.data())
def test_a_damaged_state_is_refused_or_harmless(arch, when, changes, data):
    state = bytearray(STATES[arch][when % len(STATES[arch])][:-8])
    words = len(state) // 4 - 2
    for _ in range(changes):
        at = data.draw(st.one_of(st.integers(0, 1600), st.integers(0, words), st.integers(words - 16000, words)))
        state[4 * at : 4 * at + 4] = data.draw(WORDS).to_bytes(4, "little")
    machine = machine_of(WORK, memory=16 << 20, max_page_tables=96, max_vmas=64, arch=arch, shadow_tlb=True)
    before = machine.save()
    if taken(machine, with_checksum(bytes(state))):
        machine.validate()
        run_a_moment(machine)
    else:
        assert machine.save() == before


def taken(machine, state):
    try:
        machine.load(state)
    except MachineError:
        return False
    return True


def run_a_moment(machine):
    def late(*_):
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        machine.run(go_on=True)
    except (MachineError, TimeoutError):
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("arch", STATES)
def test_every_state_is_taken(arch):
    for state in STATES[arch]:
        machine = machine_of(WORK, memory=16 << 20, max_page_tables=96, max_vmas=64, arch=arch, shadow_tlb=True)
        machine.load(state)
        assert machine.save() == state


def test_a_state_that_stands_outside_its_program_is_refused():
    machine = machine_of("mmap a 4M\ncompute 1ms\n")
    machine.run(ops=1)
    state, (op, step) = machine.save(), machine.position
    assert (op, step) == (1, 0)
    at = [i for i in range(0, 12_000, 8) if state[i : i + 24] == op.to_bytes(8, "little") + bytes(16)]
    outside = 0
    for place in at:
        for cursor in ((9, 0), (2, 1), (1, 1)):
            damaged = state[:place] + b"".join(n.to_bytes(8, "little") for n in cursor) + state[place + 16 : -8]
            try:
                machine.load(with_checksum(damaged))
            except MachineError as error:
                outside += "stands outside the program" in str(error)
    assert outside == 3


def test_a_folio_with_neighbours_on_no_deferred_list_is_refused():
    """The words that link two folios in the queue, in a state in which none is queued."""
    text = "mmap a 128K\nwrite a 0 128K\nadvise a 0 4K dontneed\nadvise a 64K 4K dontneed\n"
    machine = machine_of(text, "64", memory=64 << 20)
    machine.run(ops=2)
    before = machine.save()
    machine.run(ops=2)
    after, nil = machine.save(), b"\xff" * 4
    assert len(before) == len(after)
    links = [i for i in range(0, len(before) - 8, 4) if before[i : i + 4] == nil and after[i + 2 : i + 4] == bytes(2)]
    refused = 0
    for place in links:
        damaged = before[:place] + (0x7FFF_FFFF).to_bytes(4, "little") + before[place + 4 : -8]
        with pytest.raises(MachineError) as error:
            machine.load(with_checksum(damaged))
        refused += "neighbours on no deferred list" in str(error.value)
    assert refused == 2


def test_a_device_of_swap_larger_than_its_table_is_refused():
    """2^32 - 1 slots: the number of clusters of so many wraps to 0."""
    machine = machine_of("mmap a 4M\nwrite a 0 4M\nswap 12345676K\nswapoff\n", memory=64 << 20)
    machine.run(ops=2)
    before = machine.save()
    machine.run(ops=1)
    slots, state = (12345676 // 4).to_bytes(4, "little"), machine.save()
    places = [i for i in range(0, 12_000, 4) if state[i : i + 4] == slots and before[i : i + 4] == bytes(4)]
    assert len(places) == 1
    damaged = before[: places[0]] + b"\xff" * 4 + before[places[0] + 4 : -8]
    with pytest.raises(MachineError, match="arrays of different lengths"):
        machine.load(with_checksum(damaged))


def test_a_large_device_of_swap_that_is_empty_costs_nothing():
    machine = machine_of("swap 256G\nmmap a 8M\nwrite a 0 8M\nadvise a 0 8M pageout\n")
    machine.run()
    assert machine.counters["pswpout"] > 0
    assert machine.state_bytes < 64 << 20
    assert machine.clone() == machine
    machine.validate()
