"""Batches: the same machines as one by one, on any number of threads; what is asked and what is read."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.episodes import MIB, small_program

from thp_env.machine import Machine, MachineConfig, MachineError, Status, layout
from thp_env.machine.batch import Batch, Question, Verb, Window
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize


def machine(seed: int = 0) -> Machine:
    made = Machine(small_program(seed), MachineConfig(memory=48 * MIB))
    for order in layout.ORDERS:
        made.set_thp(order, "always")
    return made


def of(*lines: tuple) -> Machine:
    b = ProgramBuilder("lines")
    for method, *arguments in lines:
        getattr(b, method)(*arguments)
    made = Machine(b.build(), MachineConfig(memory=64 * MIB))
    for order in layout.ORDERS:
        made.set_thp(order, "always")
    made.set_default_orders(1)
    return made


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_windows_of_a_batch_are_those_of_each_machine_alone(threads: int) -> None:
    alone, batch = [machine(i) for i in range(5)], Batch([machine(i) for i in range(5)], threads)
    for step in range(400):
        status, *_ = batch.run(Window(ps=10**8, choices=40))
        for i, m in enumerate(alone):
            assert status[i] == m.run(until_ps=m.clock_ps + 10**8, choices=40, go_on=True)
        if step % 25 == 0 or (status == Status.DONE).all():
            assert all(batch[i] == m for i, m in enumerate(alone))
        if (status == Status.DONE).all():
            return
    pytest.fail("the programs did not end")


def test_windows_by_accesses_cut_anywhere_without_a_trace() -> None:
    whole, cut = machine(), machine()
    whole.run()
    windows, last = 0, 0
    while cut.run(accesses=777) == Status.WINDOW:
        simulated = cut.counters["dtlb_load_store_simulated"]
        assert simulated - last == 777
        windows, last = windows + 1, simulated
    assert windows > 5
    assert cut == whole


def test_facts_are_what_each_machine_says() -> None:
    batch = Batch([machine(i) for i in range(3)])
    batch.run(Window(ps=3 * 10**9))
    snapshot = batch.snapshot()
    for i in range(3):
        mine, theirs = snapshot.counters.of_machine(i), batch[i].counters
        assert (mine.vm == theirs.vm).all()
        assert (mine.mthp == theirs.mthp).all()
        assert (mine.times == theirs.times).all()
        assert mine.clock_ps == batch[i].clock_ps == snapshot["clock"][i]
        assert (snapshot["op"][i], snapshot["step"][i]) == batch[i].position
        assert snapshot["free_pages"][i] == batch[i].free_pages
        blocks = [n << order for order, n in enumerate(batch[i].buddyinfo())]
        assert snapshot["listed"][i] == sum(blocks)
        assert snapshot["listed_64K"][i] == sum(blocks[4:])
        assert snapshot["listed_2M"][i] == sum(blocks[9:])
        assert snapshot.stat("split")[i].sum() == theirs["split"]


def test_facts_know_of_processes_swap_and_the_limit() -> None:
    """Two processes that share 6 MiB and have 4 MiB each of their own, under a limit of 8 MiB."""
    calm = of(("mmap", "a", 6 * MIB), ("touch", "a", 0, 6 * MIB))
    pressed = of(
        ("swap", 64 * MIB), ("mmap", "a", 6 * MIB), ("touch", "a", 0, 6 * MIB), ("limit", 8 * MIB), ("fork", "C"),
        ("mmap", "b", 4 * MIB), ("touch", "b", 0, 4 * MIB), ("slice", "C"), ("mmap", "c", 4 * MIB),
        ("touch", "c", 0, 4 * MIB),
    )  # fmt: skip
    batch = Batch([calm, pressed])
    batch.run(Window())
    snapshot = batch.snapshot()
    assert snapshot["processes"].tolist() == [1, 2]
    assert snapshot["memory_max"].tolist() == [1 << 62, 2048]
    assert snapshot["memory_current"][0] >= 1536
    assert snapshot["memory_current"][0] < 1536 + 64, "a CPU charges 64 pages ahead"
    assert 2048 - 64 <= snapshot["memory_current"][1] <= 2048
    entries = sum(int(batch[1].smaps(vma.id)["swapped"]) for vma in batch[1].vmas())
    assert snapshot["swapped"].tolist() == [0, entries]
    assert snapshot["pswpout"][1] >= 3584 - 2048
    assert entries >= 3584 - 2048


def test_only_the_chosen_machines_run() -> None:
    batch = Batch([machine(0), machine(1), None])
    status, *_ = batch.run(Window(choices=1), active=np.array([True, False, False]))
    assert batch[0].clock_ps > 0
    assert batch[1].clock_ps == 0
    assert status.tolist() == [Status.WINDOW] * 3
    with pytest.raises(MachineError, match="no machine 2"):
        batch.run(Window())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(MachineError, match="at least one"):
        Batch([])
    with pytest.raises(MachineError, match="threads"):
        Batch([machine()], 0)
    one = machine()
    with pytest.raises(MachineError, match="machine 2 of the batch is machine 0, too: put a clone there"):
        Batch([one, machine(), one])
    batch = Batch([one, machine()])
    with pytest.raises(MachineError, match="machine 1 of the batch is machine 0, too"):
        batch[-1] = one
    with pytest.raises(IndexError):
        batch[2] = machine()
    wrong = np.zeros((2, 2, 3), np.uint32)
    for message, window, arrays in (
        (r"decisions is an array of shape \(2, 1, 3\), not \(2, 2, 3\)", {}, {"decisions": wrong}),
        ("decisions is an array of uint32", {}, {"decisions": [["a"]]}),
        (r"active is an array of shape \(2,\), not \(3,\)", {}, {"active": np.ones(3, bool)}),
        ("slots: Question.SLOTS needs", {"question": Question.SLOTS, "slots": 2}, {}),
        ("slots is updated in place", {"slots": 1}, {"slots": np.zeros((2, 1), np.int64)}),
        ("slots is a whole number from 0 to 65536, not -1", {"slots": -1}, {}),
        ("ps is a whole number of at least 0, not -5", {"ps": -5}, {}),
        ("choices is a whole number of at least 0, not 1.5", {"choices": 1.5}, {}),
        ("7 is not a valid Question", {"question": 7}, {}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            batch.run(Window(**window), **arrays)
    batch.run(Window(ps=0, question=Question.VMA))  # moves nothing, and ends


def test_decisions_that_make_no_sense_change_nothing() -> None:
    batch = Batch([of(("mmap", "a", 4 * MIB), ("touch", "a", 0, 2 * MIB))])
    batch.run(Window())
    vma, before = batch[0].vmas()[0], batch[0].save()
    for verb, value in ((Verb.ORDERS, 1 << 1), (Verb.ORDERS, 1 << 10), (Verb.RESOLVE, 99), (17, 0)):
        batch.run(Window(accesses=0), decisions=np.array([[[vma.id, verb, value]]], np.uint32))
        assert batch[0].save() == before
    decided(batch, Verb.SPLIT, 0, vma.id + 1)  # a VMA that is gone
    assert batch[0].save() == before


def decided(batch: Batch, verb: Verb, value: int, vma: int) -> None:
    batch.run(Window(accesses=0), decisions=np.array([[[vma, verb, value]]], np.uint32))


def test_decisions_are_carried_out_before_the_window() -> None:
    batch = Batch([of(("mmap", "a", 4 * MIB), ("touch", "a", 0, 2 * MIB), ("touch", "a", 2 * MIB, 2 * MIB))])
    batch.run(Window(new_vma=True))
    vma = batch[0].vmas()[0].id
    decided(batch, Verb.ORDERS, 1 << 4, vma)
    assert batch[0].vmas()[0].orders == 1 << 4
    batch[0].run(ops=1)
    assert batch[0].smaps(vma)["by_order"][4] == 512
    decided(batch, Verb.SPLIT, 0, vma)
    assert batch[0].smaps(vma)["by_order"][0] == 512
    decided(batch, Verb.ADVISE, layout.ADVICE["collapse"], vma)
    assert batch[0].smaps(vma)["pmd_mapped"] == 512
    decided(batch, Verb.ADVISE, layout.ADVICE["nohugepage"], vma)
    assert batch[0].vmas()[0].flags & layout.VM_NOHUGEPAGE
    before = batch[0].save()
    decided(batch, Verb.SPLIT, 0, 12345)
    assert batch[0].save() == before, "a VMA that is gone"


def test_collapse_of_one_machine() -> None:
    m = of(("mmap", "a", 3 * MIB), ("touch", "a", 0, 3 * MIB), ("compute", 1))
    m.run(ops=2)
    vma = m.vmas()[0].id
    assert m.collapse(vma) == 0
    assert m.smaps(vma)["pmd_mapped"] == 512
    assert m.counters["thp_collapse_alloc"] == 1
    with pytest.raises(KeyError):
        m.collapse(99)


def slots_of(batch: Batch, held: np.ndarray, **limits: int) -> np.ndarray:
    window = Window(question=Question.SLOTS, slots=held.shape[1], **limits)
    _, rows, _ = batch.run(window, slots=held)
    return rows[0]


def test_slots_go_to_the_largest_and_are_kept() -> None:
    maps = [("mmap", name, 2 * MIB) for name in "abcd"]
    touches = [("touch", name, 0, kb * 1024) for name, kb in (("a", 64), ("b", 512), ("c", 256), ("d", 128))]
    batch = Batch([of(*maps, *touches, ("touch", "a", 0, 2 * MIB), ("munmap", "b", 0, 2 * MIB), ("compute", 1),
                      ("munmap", "a", 0, MIB // 2), ("compute", 1))])  # fmt: skip
    batch[0].run(ops=8)
    ids = {name: next(v.id for v in batch[0].vmas() if v.start == batch[0].region(name)[0]) for name in "abcd"}
    held = np.zeros((1, 2), np.uint32)
    rows = slots_of(batch, held, accesses=0)
    assert held.tolist() == [[ids["b"], ids["c"]]]
    assert [int(r["by_order"][0]) for r in rows] == [128, 64, 16 + 32]
    assert rows[2]["scanned"] == 1024
    rows = slots_of(batch, held, accesses=512)
    assert held.tolist() == [[ids["b"], ids["c"]]], "a is larger now, but they keep their slots"
    batch[0].run(ops=2)
    rows = slots_of(batch, held, accesses=0)
    assert held.tolist() == [[ids["a"], ids["c"]]], "b is unmapped"
    batch[0].run(ops=1)
    rows = slots_of(batch, held, accesses=0)
    assert held.tolist() == [[ids["a"], ids["c"]]], "the larger part keeps the slot"
    assert rows[0]["vm_end"] - rows[0]["vm_start"] == 3 * MIB // 2


def test_reading_a_share_of_the_page_tables_takes_a_share_of_the_time() -> None:
    spent = []
    for every in (1, 4):
        batch = Batch([of(("mmap", "a", 16 * MIB), ("touch", "a", 0, 16 * MIB), ("compute", 1))])
        batch[0].run(ops=2)
        before = batch[0].counters.time_ps("monitoring")
        seen = []
        for _ in range(4):
            _, rows, _ = batch.run(Window(accesses=0, question=Question.SLOTS, slots=1, every=every),
                                slots=np.zeros((1, 1), np.uint32))  # fmt: skip
            seen.append((int(rows[0, 0]["scanned"]), int(rows[0, 0]["by_order"][0]), int(rows[0, 0]["young"])))
        spent.append(batch[0].counters.time_ps("monitoring") - before)
        assert seen[0][:2] == (4096 // every, 4096 // every)
        if every == 4:
            assert [y for *_, y in seen] == [1024] * 4, "another part each time"
    assert spent[0] == 4 * spent[1] > 0


def test_ctrl_c_stops_a_batch_at_once() -> None:
    code = """
from support.episodes import MIB
from thp_env.machine import Machine, MachineConfig
from thp_env.machine.batch import Batch, Window
from thp_env.traces import ProgramBuilder
b = ProgramBuilder("endless")
b.mmap("a", 8 * MIB)
b.touch("a", 0, 8 * MIB)
b.access("a", 0, 8 * MIB, "uniform", 10**12)
batch = Batch([Machine(b.build(), MachineConfig(memory=64 * MIB)) for _ in range(3)], 2)
print("running", flush=True)
try:
    batch.run(Window())
except KeyboardInterrupt:
    for i in range(3):
        batch[i].validate()
    print("stopped")
"""
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        assert child.stdout.readline() == "running\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60)[0] == "stopped\n"
    finally:
        child.kill()


def test_a_forked_process_makes_threads_of_its_own() -> None:
    batch = Batch([machine(i) for i in range(2)], 2)
    batch.run(Window(choices=1))
    child = os.fork()
    if child == 0:
        status, *_ = batch.run(Window(choices=1))
        os._exit(0 if (status == Status.WINDOW).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    batch = Batch([machine(i) for i in range(2)], 2)
    batch.run(Window(choices=1))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        del batch
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
