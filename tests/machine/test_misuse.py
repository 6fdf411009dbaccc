"""Calls that make no sense are refused with one line that names the argument; no call breaks a machine."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace

import numpy as np
import pytest
from support.machines import machine_of, program_of

from thp_env.machine import Machine, MachineConfig, MachineError, Status, Verb, layout
from thp_env.machine.batch import Batch, Window
from thp_env.machine.operations import ACCESS_DTYPE, OP_DTYPE
from thp_env.traces import Program, ProgramBuilder, ProgramError

pytestmark = pytest.mark.sanitize

BUSY = "the machine is running"
SMALL = "mmap a 8M\nwrite a 0 8M\nfork C\n"
REFUSED = [
    (lambda m, v: m.set_thp(4, "foo"), MachineError, "mode is 'foo': one of never, madvise, always, inherit"),
    (lambda m, v: m.set_thp(10, "always"), MachineError, "order is a whole number from 2 to 9, not 10"),
    (lambda m, v: m.set_thp(-1, "always"), MachineError, "order is a whole number from 2 to 9, not -1"),
    (lambda m, v: m.set_thp("4", "always"), MachineError, "order is a whole number from 2 to 9, not '4'"),
    (lambda m, v: m.madvise(v, "foo"), MachineError, "advice is 'foo': one of normal, willneed"),
    (lambda m, v: m.madvise(v, 4), MachineError, "advice is 4: one of"),
    (lambda m, v: m.madvise(77, "cold"), KeyError, "no VMA with id 77"),
    (lambda m, v: m.madvise(-1, "cold"), MachineError, "vma is a whole number from 0 to 4294967295, not -1"),
    (lambda m, v: m.collapse(None), MachineError, "vma is a whole number"),
    (lambda m, v: m.split(77), KeyError, "no VMA with id 77"),
    (lambda m, v: m.smaps(77), KeyError, "no VMA with id 77"),
    (lambda m, v: m.vma(77), KeyError, "no VMA with id 77"),
    (lambda m, v: m.smaps(1 << 40), MachineError, "vma is a whole number"),
    (lambda m, v: m.set_orders(v, 2), MachineError, "mask is 0x2: it has a bit for each of the orders 0 and 2 to 9"),
    (lambda m, v: m.set_orders(v, 1 << 10), MachineError, "mask is 0x400"),
    (lambda m, v: m.set_orders(v, 1 << 70), MachineError, "mask is a whole number"),
    (lambda m, v: m.set_orders(v, -1), MachineError, "mask is a whole number of at least 0, not -1"),
    (lambda m, v: m.set_orders(77, 4), KeyError, "no VMA with id 77"),
    (lambda m, v: m.set_default_orders(1 << 63), MachineError, "mask is 0x8000000000000000"),
    (lambda m, v: m.process("nobody"), KeyError, "no process 'nobody': there are P, C"),
    (lambda m, v: m.region("x"), KeyError, "no region 'x': there are a"),
    (lambda m, v: m.region(None), KeyError, "no region None"),
    (lambda m, v: m.ask_orders("foo"), MachineError, "hook is 'foo': one of none, bpf, address"),
    (lambda m, v: m.resolve(4), MachineError, "nothing was asked"),
    (lambda m, v: m.resolve(1 << 40), MachineError, "nothing was asked"),
    (lambda m, v: m.resolve("4"), MachineError, "nothing was asked"),
    (lambda m, v: m.unusable_free_index(11), MachineError, "order is a whole number from 0 to 10, not 11"),
    (lambda m, v: m.fragmentation_index(-1), MachineError, "order is a whole number from 0 to 10, not -1"),
    (lambda m, v: m.fragmentation_index(64), MachineError, "order is a whole number from 0 to 10, not 64"),
    (lambda m, v: m.run(until_ps=-1), MachineError, "until_ps is a whole number of at least 0, not -1"),
    (lambda m, v: m.run(ops=1.5), MachineError, "ops is a whole number of at least 0, not 1.5"),
    (lambda m, v: m.run(accesses="a"), MachineError, "accesses is a whole number of at least 0, not 'a'"),
    (lambda m, v: m.pagemap(9, 0, 4096), IndexError, "no such mm"),
    (lambda m, v: m.pagemap(0, 1, 4096), MachineError, "must begin at a page"),
    (lambda m, v: m.pagemap(0, 1 << 47, 4096), MachineError, "lie within a program's addresses"),
    (lambda m, v: m.pagemap(0, 0, 1 << 46), MachineError, "at most 64 GiB of addresses at once"),
    (lambda m, v: m.pagemap(0, 0, -4096), MachineError, "length is a whole number of at least 0, not -4096"),
    (lambda m, v: m.set("foo", 1), MachineError, "setting is 'foo': one of enabled"),
    (lambda m, v: m.set("swappiness", 201), MachineError, "swappiness is a whole number from 0 to 200, not 201"),
    (lambda m, v: m.set("enabled", "always"), MachineError, "enabled is a whole number from 0 to 3, not 'always'"),
    (lambda m, v: m.khugepaged(-1), MachineError, "pages is a whole number of at least 0, not -1"),
    (lambda m, v: m.khugepaged(1, -1), MachineError, "sleep_ms is a time of at least 0, not -1"),
    (lambda m, v: m.khugepaged(1, float("nan")), MachineError, "sleep_ms is a time of at least 0, not nan"),
    (lambda m, v: m.khugepaged(1, 1, float("inf")), MachineError, "alloc_sleep_ms is a time of at least 0, not inf"),
    (lambda m, v: m.decide_range(0, 4096, 0, Verb.SPLIT), MachineError, "must begin and end at pages of a program"),
    (lambda m, v: m.decide_range(0, 1 << 47, 1 << 47, Verb.SPLIT), MachineError, "must begin and end at pages"),
    (lambda m, v: m.decide_range(0, (1 << 64) - 4096, 4096, Verb.SPLIT), MachineError, "must begin and end at pages"),
    (lambda m, v: m.decide_range(9, 0, 4096, Verb.SPLIT), MachineError, "no such mm"),
    (lambda m, v: m.decide_range(0, -4096, 4096, Verb.SPLIT), MachineError, "start is a whole number"),
    (lambda m, v: m.count_zero_pages(0, 0, 1 << 48), MachineError, "must begin and end at pages of a program"),
    (lambda m, v: m.test_and_clear_young(0, np.array([1 << 63], np.uint64)), MachineError, "an address is none"),
    (lambda m, v: m.test_and_clear_young(0, np.zeros((2, 2), np.uint64)), MachineError, "one-dimensional array"),
    (lambda m, v: m.test_and_clear_young(0, ["x"]), MachineError, "one-dimensional array"),
    (lambda m, v: m.sample_walks(-1), MachineError, "period is a whole number of at least 0, not -1"),
    (lambda m, v: m.load("x"), MachineError, "a saved machine is bytes, not str"),
    (lambda m, v: m.load(b"x"), MachineError, "not a saved machine: truncated"),
    (lambda m, v: Batch([m], threads=-1), MachineError, "threads is a whole number of at least 1, not -1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[message[:40] for _, _, message in REFUSED])
def test_an_argument_that_makes_no_sense(call, error, message):
    machine = machine_of(SMALL)
    machine.run()
    before = machine.save()
    with pytest.raises(error) as refused:
        call(machine, machine.vmas()[0].id)
    said = str(refused.value.args[0])
    assert message in said
    assert "\n" not in said
    assert machine.save() == before


def test_unusual_arguments_do_no_harm():
    machine = machine_of(SMALL)
    machine.run(until_ps=1 << 200, ops=np.uint64(5), accesses=np.int32(10))
    machine.khugepaged(pages=1 << 100, sleep_ms=1e300, alloc_sleep_ms=1e300)
    machine.sample_walks((1 << 64) - 1)
    assert machine.decide_range(0, 0, 0x7FFFFFFFF000, Verb.SPLIT) == 0
    last_block = 0x7FFFFFE00000  # its last page belongs to no program
    assert machine.decide_range(0, last_block, 1 << 47, Verb.ADVISE, layout.ADVICE["collapse"]) == errno.ENOMEM
    assert machine.decide_range(0, 0, 4096, 17) == 22
    assert machine.decide_range(0, 0, 1 << 30, Verb.ORDERS, 1 << 1) == 22
    machine.run()
    machine.validate()


def test_a_decision_does_not_ask():
    machine = machine_of("mmap a 4M\nmmap b 4M\nadvise b 0 4M populate_write\n", "64")
    machine.run(ops=2)
    machine.ask_orders("bpf")
    assert machine.madvise(machine.vmas()[0].id, "populate_write") == 11  # EAGAIN
    assert machine.question is None
    while machine.run() == Status.NEED_ORDER:
        machine.clone().validate()
        machine.resolve(4)
    machine.validate()
    assert machine.process("P")[1] == 1024


# -- programs --------------------------------------------------------------------------------------


def recording(n: int) -> Program:
    b = ProgramBuilder("recording")
    b.mmap("a", 8 << 20)
    b.replay(np.array([(i % 2048, 0, 1, 1, 1) for i in range(n)], ACCESS_DTYPE))
    return b.build()


def test_a_program_is_checked_before_it_runs():
    ops = np.zeros(1, OP_DTYPE)
    for field, value in (("op", 99), ("process", 7)):
        ops[field] = value
        with pytest.raises(ProgramError, match="unknown"):
            Machine(Program(ops, ("P",), ()), MachineConfig(memory=64 << 20))
        ops[field] = 0
    with pytest.raises(ProgramError, match="slice outside the recording"):
        Machine(replace(recording(5), accesses=np.empty(0, ACCESS_DTYPE)))
    with pytest.raises(ProgramError, match="brk_start is no page"):
        Machine(replace(recording(5), meta={"brk_start": 5}))
    with pytest.raises(ProgramError, match="mmap_base is no page"):
        Machine(replace(recording(5), meta={"mmap_base": "x"}))


def test_an_extension_begins_with_the_operation_under_way():
    machine = machine_of(recording(10_000))
    machine.run(accesses=9_000)
    other = np.array(recording(10_000).accesses)
    other["page"][9_500] = 3
    for program in (recording(5), recording(20_000), replace(recording(10_000), accesses=other)):
        with pytest.raises(MachineError, match="the 1 operations that have run and the one that is under way"):
            machine.extend(program)
    text = "mmap a 8M\naccess a 0 8M zipf count=1000 zipf={}\n"
    machine = machine_of(text.format(1.1))
    machine.run(accesses=10)
    with pytest.raises(MachineError, match="under way"):
        machine.extend(program_of(text.format(1.2)))
    machine.extend(program_of(text.format(1.1) + "compute 1ms\n"))
    assert machine.run() == Status.DONE


def test_an_extension_begins_with_the_call_that_waits():
    machine = machine_of("mmap a 4M\nadvise a 0 4M populate_write\n", "64")
    machine.ask_orders("bpf")
    assert machine.run() == Status.NEED_ORDER
    with pytest.raises(MachineError, match="under way"):
        machine.extend(program_of("mmap a 4M\nmunmap a 0 4M\n"))
    machine.resolve(4)
    with pytest.raises(MachineError, match="under way"):
        machine.extend(program_of("mmap a 4M\nmunmap a 0 4M\n"))
    assert machine.run() == Status.NEED_ORDER


def test_who_is_killed_does_not_go_on():
    machine = machine_of("mmap a 64M\nwrite a 0 64M\n", memory=16 << 20)
    assert machine.run() == Status.OOM
    machine.extend(program_of("mmap a 64M\nexit P\n"))
    assert machine.run() == Status.DONE
    machine.validate()


def test_a_state_of_another_program_is_refused():
    short, long = machine_of(recording(5)), machine_of(recording(10_000))
    long.run(accesses=9_990)
    state = long.save()
    with pytest.raises(MachineError, match="belongs to another program"):
        short.load(state)
    long.run()
    long.load(state)
    assert long.run(accesses=100) == Status.DONE


# -- one machine, two threads ----------------------------------------------------------------------

LONG = "mmap a 8M\nwrite a 0 8M\naccess a 0 8M uniform count=100000000 ns=1\n"
WHILE_IT_RUNS = [
    lambda m: m.run(),
    lambda m: m.clone(),
    lambda m: m.save(),
    lambda m: m.load(b""),
    lambda m: m == machine_of(LONG),
    lambda m: machine_of(LONG) == m,
    lambda m: m.extend(m.program),
    lambda m: m.clock_ps,
    lambda m: m.position,
    lambda m: m.counters,
    lambda m: m.fault_latencies,
    lambda m: m.state_bytes,
    lambda m: m.vmas(),
    lambda m: m.smaps(1),
    lambda m: m.pagemap(0, 0, 4096),
    lambda m: m.process("P"),
    lambda m: m.region("a"),
    lambda m: m.buddyinfo(),
    lambda m: m.validate(),
    lambda m: m.split(1),
    lambda m: m.set_thp(4, "always"),
    lambda m: m.question,
    lambda m: m.khugepaged(),
    lambda m: m.take_walk_samples(),
    lambda m: Batch([m]).run(Window()),
    lambda m: Batch([m]).snapshot(),
]


def test_a_machine_that_runs_is_busy():
    machine = machine_of(LONG)
    running, refused = threading.Event(), []

    def run():
        running.set()
        while machine.run(accesses=1 << 22) == Status.WINDOW and len(refused) < len(WHILE_IT_RUNS):
            pass

    thread = threading.Thread(target=run)
    thread.start()
    running.wait()
    for call in WHILE_IT_RUNS:
        while thread.is_alive():
            try:
                call(machine)
            except MachineError as error:
                if str(error) == BUSY:
                    refused.append(str(error))
                    break
    while thread.is_alive():
        refused.append(BUSY)
        thread.join(0.1)
    assert refused[: len(WHILE_IT_RUNS)] == [BUSY] * len(WHILE_IT_RUNS)
    machine.validate()


def test_threads_that_run_one_machine_lose_nothing():
    text = "mmap a 16M\nwrite a 0 16M\n" + "write a 8M 8M\nadvise a 8M 8M dontneed\n" * 20
    whole = machine_of(text, "64 2048")
    whole.run()
    for _ in range(5):
        machine, errors = machine_of(text, "64 2048"), set()

        def run(machine=machine, errors=errors):
            try:
                while machine.run(ops=1) == Status.WINDOW:
                    pass
            except MachineError as error:
                errors.add(str(error))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        machine.run()
        assert errors <= {BUSY}
        assert machine == whole


def test_two_batches_share_no_machine_while_one_runs():
    machine = machine_of(LONG.replace("count=100000000", "count=3000000"))
    first, second, said = Batch([machine, machine.clone()]), Batch([machine]), set()

    def run(batch):
        try:
            batch.run(Window())
        except MachineError as error:
            said.add(str(error))

    threads = [threading.Thread(target=run, args=(batch,)) for batch in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said <= {BUSY, "the batch is running"}
    machine.validate()
    assert machine.run() == Status.DONE
