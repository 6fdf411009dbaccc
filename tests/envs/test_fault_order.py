"""FaultOrder-v0: what is asked at a fault, what is seen of it, and what an answer does."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from support.episodes import MIB, make, play, randomly, small_workload
from support.machines import PAGE, PMD, orders_of

from thp_env.envs.fault_order import BLOCK_FIELDS, FAULT_FIELDS, KEPT, ORDERS
from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.traces import ProgramBuilder, parse_program
from thp_env.workload import Instance, resolve

ENV = "thp_env/FaultOrder-v0"


def fault_env(text: str, memory: int = 64 * MIB, **arguments) -> gymnasium.Env:
    program = Instance(parse_program(text, "test"), MachineConfig(memory=memory))
    return make(ENV, workload=program, window_ms=100, window_faults=1 << 20, **arguments)


def always(order: int):
    return lambda env: ORDERS.index(order)


def largest(env: gymnasium.Env) -> int:
    return int(np.flatnonzero(env.unwrapped.action_masks()).max())


def test_the_episode_is_that_of_a_machine_with_the_same_answers() -> None:
    env = make(ENV, reward="balanced")
    play(env, largest, seed=3)
    workload = small_workload()
    program, config = workload.sample(_drawn(seed=3))
    machine = Machine(program, MachineConfig(memory=config.memory, shadow_tlb=True))
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.ask_orders("bpf")
    while (status := machine.run(go_on=True)) == Status.NEED_ORDER:
        machine.resolve(machine.question.orders.bit_length() - 1)
    assert status == Status.DONE
    ours = env.unwrapped.machine.counters
    assert ours.clock_ps == machine.clock_ps
    assert (ours.vm == machine.counters.vm).all()
    assert (ours.mthp == machine.counters.mthp).all()


def _drawn(seed: int) -> np.random.Generator:
    rng, _ = gymnasium.utils.seeding.np_random(seed)
    rng.integers(len(resolve(small_workload())))  # which workload
    return rng


@pytest.mark.parametrize("order", [0, 4, 9])
def test_an_order_is_what_faults_get(order: int) -> None:
    env = fault_env("mmap a 8M\nwrite a 0 8M\n")
    episode = play(env, always(order), seed=0)
    assert len(episode.rewards) == 4, "one decision a block"
    assert set(orders_of(env.unwrapped.machine, "a")) == {order}


def test_what_is_not_allowed_counts_as_4k() -> None:
    env = fault_env("mmap a 4M\nwrite a 0 4M\n", default_sizes="16K+32K+64K")
    env.reset(seed=0)
    assert env.unwrapped.action_masks().tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    play(env, always(9), seed=0)
    assert set(orders_of(env.unwrapped.machine, "a")) == {0}


def test_by_address_a_small_piece_of_a_block_offers_small_orders() -> None:
    env = fault_env("mmap a 2176K\nwrite a 2M 4K\n", hook="address")  # 128K in the second block
    env.reset(seed=0)
    assert env.unwrapped.action_masks().tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    env = fault_env("mmap a 2176K\nwrite a 2M 4K\n", hook="bpf")
    env.reset(seed=0)
    assert env.unwrapped.action_masks().tolist() == [1] * 9


def named(seen: dict[str, np.ndarray]) -> list[dict[str, float]]:
    fields = {"vma": KEPT, "fault": FAULT_FIELDS, "block": BLOCK_FIELDS}
    return [dict(zip(names, map(float, seen[key]), strict=True)) for key, names in fields.items()]


def test_what_is_seen_of_a_fault() -> None:
    env = fault_env("mmap a 6M\nwrite a 2M 64K\nadvise a 0 6M hugepage\nwrite a 5M 4K\n", hook="address")
    seen, _ = env.reset(seed=0)
    assert env.unwrapped.question.type == "fault"
    vma, fault, block = named(seen)
    assert fault["type_fault"] == 1
    assert fault["type_swapin"] == 0
    assert all(fault[f"may_{4 << o}K"] == 1 for o in layout.ORDERS)
    assert fault["task_rss"] == 0
    assert vma["size"] == pytest.approx(np.log2(1 + 1536) / 24)
    assert vma["advised"] == vma["asked"] == 0
    assert block["place"] == 0.5
    assert [block[f"inside_{b}"] for b in ("before", "here", "after")] == [1, 1, 1]
    seen, *_ = env.step(ORDERS.index(4))
    vma, fault, block = named(seen)
    assert fault["task_rss"] == pytest.approx(np.log2(17) / 24)
    assert vma["advised"] == vma["asked"] == 1
    assert vma["pages_per_fault"] == pytest.approx(np.log2(17) / 10)
    assert block["place"] == 1
    assert block["page"] == 0.5
    assert [block[f"inside_{b}"] for b in ("before", "here", "after")] == [1, 1, 0]
    assert block["mapped_before"] == block["large_before"] == 16 / 512
    assert block["huge_before"] == block["mapped_here"] == 0


def test_only_looking_by_address_takes_time() -> None:
    text = "mmap a 4M\nwrite a 0 4M\n"
    times = []
    for hook in ("bpf", "address"):
        env = fault_env(text, hook=hook)
        play(env, always(4), seed=0)
        times.append(env.unwrapped.machine.counters.time_ps("monitoring"))
    scan = env.unwrapped.machine.config.clock["scan_pte"]
    assert times == [0, 512 * scan], "the second question reads the 512 entries of the block before"


def test_swapping_in_and_khugepaged_are_seen_as_such() -> None:
    text = """
set enabled always
swap 64M
mmap a 4M
fill a 0 4M
advise a 0 2M pageout
read a 0 4K
advise a 0 4M hugepage
khugepaged 1
"""
    env = fault_env(text)
    seen, _ = env.reset(seed=0)
    kinds, over = [], False
    while not over:
        kinds.append([name for name in list(FAULT_FIELDS)[:3] if seen["fault"][list(FAULT_FIELDS).index(name)]])
        seen, _, over, _, _ = env.step(ORDERS.index(4))
    assert kinds == [["type_fault"]] * 2 + [["type_swapin"]] + [["type_khugepaged"]] * 2


def test_a_window_without_a_fault_ends_the_step() -> None:
    env = fault_env("mmap a 4M\nwrite a 0 4K\ncompute 250ms\nwrite a 2M 4K\n")
    seen, _ = env.reset(seed=0)
    waits, elapsed, over = [bool(seen["fault"].any())], [], False
    while not over:
        if not waits[-1]:
            assert env.unwrapped.question is None
            assert not seen["vma"].any()
            assert seen["system"].any()
            assert env.unwrapped.action_masks().tolist() == [1] + [0] * 8
        seen, _, over, _, info = env.step(ORDERS.index(4))
        waits.append(bool(seen["fault"].any()))
        elapsed.append(info["elapsed_ns"])
    assert waits == [True, False, True, False]


def test_each_machine_of_a_batch_runs_to_its_own_decision() -> None:
    quick, slow = "mmap a 16M\nwrite a 0 16M\n", "mmap a 4M\nwrite a 0 4K\ncompute 80ms\nwrite a 2M 4K\n"
    instances = [Instance(parse_program(t, "t"), MachineConfig(memory=64 * MIB)) for t in (quick, slow)]
    envs = gymnasium.make_vec(ENV, 2, vectorization_mode="vector_entry_point", workloads=instances)
    envs.reset(seed=0)
    clocks = []
    for _ in range(2):
        _, _, over, _, infos = envs.step(np.full(2, ORDERS.index(9)))
        clocks.append(infos["elapsed_ns"].tolist())
    assert clocks[0][0] < 1e6 < 80e6 < clocks[0][1]
    assert over.tolist() == [False, True]


def test_one_answer_a_block_serves_random_play() -> None:
    """No (VMA, block, type) is asked about twice without a zap between."""
    b = ProgramBuilder("t", seed=2)
    b.mmap("a", 16 * MIB, offset=3 * PAGE)
    b.access("a", 0, 16 * MIB, "uniform", 3000, write=0.5)
    env = make(ENV, workload=Instance(b.build(), MachineConfig(memory=64 * MIB)))
    env.reset(seed=0)
    choose, asked, over = randomly(0), [], False
    while not over:
        if question := env.unwrapped.question:
            asked.append((question.vma, question.address // PMD, question.type))
        _, _, over, _, _ = env.step(choose(env))
    assert len(asked) == len(set(asked)) == 8, "the last 12K have no room for a large folio"


def test_an_unknown_hook_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'ebpf'.*bpf, address"):
        make(ENV, hook="ebpf")
