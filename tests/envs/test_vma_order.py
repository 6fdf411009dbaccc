"""VmaOrder-v0: who is asked when, and what a decision does to the machine."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import KEEP, MIB, PAGE, make, play, small_program

from thp_env.envs.actions import ACTIONS, ORDER_MASKS
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS
from thp_env.machine import KIND_FOLIO, MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

VMA, SYSTEM = list(VMA_FIELDS), list(SYSTEM_FIELDS)
ENDLESS = {"window_ms": 1e6, "window_faults": 1 << 40}


def program(*lines: tuple, memory: int = 64 * MIB) -> Instance:
    """Return an instance of builder calls, (method, arguments...)."""
    b = ProgramBuilder("lines")
    for method, *arguments in lines:
        keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        getattr(b, method)(*arguments, **keywords)
    return Instance(b.build(), MachineConfig(memory=memory))


def orders(env, region: str) -> list[int]:
    """Return the folio order of every page of a region; -1 where nothing is mapped."""
    machine = env.unwrapped.machine
    pages = machine.pagemap(machine.process("P")[0], *machine.region(region))
    return np.where(pages["kind"] == KIND_FOLIO, pages["order"].astype(int), -1).tolist()


TWO = (("mmap", "a", MIB), ("touch", "a", 0, 256 * 1024), ("mmap", "b", MIB), ("touch", "b", 0, MIB),
       ("touch", "a", 256 * 1024, 768 * 1024), ("compute", 10.0))  # fmt: skip


def test_new_vmas_are_asked_first_and_before_their_first_fault() -> None:
    env = make(workload=program(*TWO), **ENDLESS).unwrapped
    observation, _ = env.reset(seed=0)
    start = {name: env.machine.region(name)[0] for name in ("a",)}
    assert env.vma.start == start["a"]
    assert env.machine.counters["pgfault"] == 0
    assert observation["vma"][VMA.index("asked")] == 0
    env.step(KEEP)
    assert env.vma.start == env.machine.region("b")[0], "b is new; a has faulted meanwhile and waits"
    assert env.machine.counters["pgfault"] == 64
    _, _, over, _, _ = env.step(KEEP)
    assert over


def test_idle_windows_end_without_a_vma_and_change_nothing() -> None:
    sleep = [("compute", 2e6)] * 50
    sleepy = program(*TWO, *sleep, ("touch", "a", 0, MIB), ("mmap", "c", MIB), ("compute", 1e3))

    def play(**arguments) -> tuple[list, dict]:
        env = make(workload=sleepy, window_ms=10, **arguments).unwrapped
        observation, _ = env.reset(seed=0)
        seen, over = [], False
        while not over:
            if env.vma is None:
                assert not observation["vma"].any()
                assert env.action_masks().tolist() == [1] + [0] * (len(ACTIONS) - 1)
                assert observation["system"].any()
            seen.append(env.vma and env.vma.start)
            observation, _, over, _, info = env.step(KEEP)
        return seen, info["metrics"]

    (asked, alone), (all_asked, idle) = play(), play(idle=True)
    assert None not in asked
    assert [start for start in all_asked if start] == asked
    assert all_asked.count(None) == 8, "100 ms in windows of 10; in two a and b are asked about, which have faulted"
    assert idle == alone


def test_others_are_asked_round_robin_when_they_faulted() -> None:
    touches = [("touch", name, i * 16 * PAGE, 16 * PAGE) for i in range(8) for name in ("a", "b")]
    instance = program(*[("mmap", n, MIB) for n in ("a", "b", "idle")], *touches, ("compute", 1e3))
    env = make(workload=instance, window_ms=1e3, window_faults=16).unwrapped
    env.reset(seed=0)
    asked = [env.vma.start]
    while not env.step(KEEP)[2]:
        asked.append(env.vma.start)
    name = {env.machine.region(n)[0]: n for n in ("a", "b", "idle")}
    names = [name[start] for start in asked]
    assert names[:3] == ["a", "b", "idle"], "each as soon as it is mapped"
    assert names[3:7] == ["a", "b", "a", "b"], "idle never faults"
    assert "idle" not in names[3:]


def test_small_read_only_file_and_advised_away_vmas_are_never_asked() -> None:
    instance = program(
        ("mmap", "small", 15 * PAGE), ("mmap", "file", MIB, {"file": True}), ("mmap", "r", MIB, {"prot": "r"}),
        ("mmap", "stack", MIB, {"nohugepage": True}), ("touch", "small", 0, 15 * PAGE),
        ("touch", "stack", 0, MIB), ("touch", "r", 0, MIB, "read"), ("mmap", "just", 16 * PAGE),
        ("touch", "just", 0, 16 * PAGE),
    )  # fmt: skip
    env = make(workload=instance, window_ms=1e-3, window_faults=1).unwrapped
    env.reset(seed=0)
    just = env.machine.region("just")[0]
    over = False
    while not over:
        assert env.vma.start == just
        over = env.step(KEEP)[2]


@pytest.mark.parametrize("size", [*ORDER_MASKS])
def test_a_choice_sets_the_size_of_later_faults_only(size: str) -> None:
    instance = program(("mmap", "a", 4 * MIB), ("touch", "a", 0, 64 * PAGE), ("compute", 1e7),
                       ("touch", "a", 2 * MIB, 2 * MIB))  # fmt: skip
    env = make(workload=instance, window_ms=10, window_faults=1 << 40).unwrapped
    env.reset(seed=0)
    env.step(KEEP)  # 64 faults at the default, 4K
    env.step(ACTIONS.index(size))
    expected = 0 if size == "4K" else ORDER_MASKS[size].bit_length() - 1
    found = orders(env, "a")
    assert set(found[:64]) == {0}, "what was there stays"
    assert set(found[64:512]) == {-1}
    assert set(found[512:]) == {expected}


def test_a_size_applies_to_its_vma_alone() -> None:
    env = make(workload=program(*TWO), **ENDLESS).unwrapped
    env.reset(seed=0)
    env.step(ACTIONS.index("64K"))
    env.step(ACTIONS.index("16K"))
    assert set(orders(env, "a")) == {4}
    assert set(orders(env, "b")) == {2}


def test_keep_keeps_an_earlier_choice() -> None:
    instance = program(("mmap", "a", 2 * MIB), ("touch", "a", 0, MIB), ("touch", "a", MIB, MIB), ("compute", 1.0))
    env = make(workload=instance, window_ms=1e6, window_faults=4).unwrapped
    env.reset(seed=0)
    env.step(ACTIONS.index("64K"))
    while not env.step(KEEP)[2]:
        pass
    assert set(orders(env, "a")) == {4}


def test_split_splits_the_vmas_large_folios_and_keeps_its_size() -> None:
    instance = program(
        ("mmap", "a", 4 * MIB), ("mmap", "b", 2 * MIB), ("touch", "b", 0, 2 * MIB),
        ("touch", "a", 0, 2 * MIB), ("touch", "a", 2 * MIB, 2 * MIB), ("compute", 1.0),
    )  # fmt: skip
    env = make(workload=instance, window_ms=1e6, window_faults=1, default_sizes="2M").unwrapped
    env.reset(seed=0)
    env.step(KEEP)
    while not (env.vma.start == env.machine.region("a")[0] and set(orders(env, "a")[:512]) == {9}):
        env.step(KEEP)
    assert env.action_masks()[ACTIONS.index("split")]
    env.step(ACTIONS.index("split"))
    assert set(orders(env, "a")[:512]) == {0}
    assert set(orders(env, "b")) == {9}
    assert env.machine.counters["split"] == 1
    assert env.reward_terms["split_cost"] < 0
    while not env.task.over[0]:
        env.step(KEEP)
    assert set(orders(env, "a")[512:]) == {9}, "a split decides nothing about later faults"


def test_masks_follow_the_vma() -> None:
    instance = program(
        ("mmap", "a", 12 * PAGE + MIB, {"offset": 4 * PAGE}), ("touch", "a", 12 * PAGE, MIB), ("compute", 1.0)
    )
    env = make(workload=instance, default_sizes="64K", window_ms=1e6, window_faults=1).unwrapped
    env.reset(seed=0)
    named = dict(zip(ACTIONS, env.action_masks(), strict=True))
    impossible = dict.fromkeys(("1M", "2M", "split", "collapse"), 0)
    assert named == dict.fromkeys(ACTIONS, 1) | impossible, "16K to 1088K: no whole 1M"
    env.step(KEEP)
    assert env.action_masks()[ACTIONS.index("split")], "the first fault brought a folio of 64K"
    assert env.action_masks().dtype == np.int8


@pytest.mark.parametrize("fits", [name for name in ORDER_MASKS if name != "4K"])
def test_what_a_mask_forbids_has_no_effect(fits: str) -> None:
    """A VMA of 64K that no aligned 64K fits into: the sizes that the mask refuses change nothing."""
    instance = program(("mmap", "a", 16 * PAGE, {"offset": 8 * PAGE}), ("touch", "a", 0, 16 * PAGE), ("compute", 1.0))
    env = make(workload=instance, **ENDLESS).unwrapped
    env.reset(seed=0)
    allowed = env.action_masks()[ACTIONS.index(fits)]
    env.step(ACTIONS.index(fits))
    assert (set(orders(env, "a")) != {0}) == bool(allowed)


def test_windows_are_respected() -> None:
    touches = [("touch", "a", i * MIB, MIB) for i in range(8)]
    instance = program(("mmap", "a", 8 * MIB), *touches, *[("compute", 1e5)] * 20, ("touch", "a", 0, 8 * MIB))
    by_faults = make(workload=instance, window_ms=1e6, window_faults=100).unwrapped
    by_faults.reset(seed=0)
    seen = [0]
    while not by_faults.step(KEEP)[2]:
        seen.append(by_faults.machine.counters["fault_with_choice"])
    assert set(np.diff(seen)) == {100}
    by_time = make(workload=instance, window_ms=0.25, window_faults=1 << 40).unwrapped
    by_time.reset(seed=0)
    over = False
    lengths = []
    while not over:
        before = by_time.machine.counters.time_ps("monitoring")
        *_, over, _, info = by_time.step(KEEP)
        lengths.append(info["elapsed_ns"] - (by_time.machine.counters.time_ps("monitoring") - before) / 1000)
    # A window ends with the access that fills it, so it is longer by one fault at most.
    assert len(lengths) > 10
    assert all(250_000 <= ns <= 252_000 for ns in lengths[:10]), lengths


def test_decisions_do_not_change_the_workload() -> None:
    def accessed(choose) -> tuple:
        env = make(workload=small_program(3), shadow_tlb=True)
        play(env, choose, seed=0)
        machine = env.unwrapped.machine
        c = machine.counters
        touched = [np.array(orders(env, r)) >= 0 for r in ("heap", "pool")]
        return c["accesses"], c["dtlb_load_store_simulated"], c["shadow_l1_miss"], touched

    rng = np.random.default_rng(0)
    always_4k = accessed("4K")
    for choose in ("2M", "all", "split", lambda env: int(rng.integers(len(ACTIONS)))):
        same = accessed(choose)
        assert same[:2] == always_4k[:2]
        # The same pages in the same order; only flushes, which also clear the 4K shadow, may differ a little.
        assert same[2] == pytest.approx(always_4k[2], rel=0.05)
        assert all((now | ~then).all() for now, then in zip(same[3], always_4k[3], strict=True))


def test_an_episode_is_as_long_as_its_program() -> None:
    work = small_program(3).work.sum()
    for action in ACTIONS:
        env = make(workload=small_program(3))
        assert play(env, action, seed=0).infos[-1]["reason"] == "done"
        assert env.unwrapped.machine.counters["accesses"] == work


def test_the_default_of_an_episode_can_be_chosen() -> None:
    env = make(workload=small_program())
    observation, _ = env.reset(seed=0, options={"default_sizes": "2M"})
    may = {f: observation["vma"][VMA.index(f)] for f in VMA if f.startswith("may_")}
    assert {f for f, v in may.items() if v} == {"may_2048K"}
    play(env, seed=0, options={"default_sizes": "2M"})
    assert set(orders(env, "heap")) == {9}
    play(env, seed=0)
    assert set(orders(env, "heap")) == {0}, "the next episode has the environment's default again"
    with pytest.raises(ValueError, match="unknown default_sizes '5M'"):
        env.reset(options={"default_sizes": "5M"})


def test_observed_figures_are_the_machines() -> None:
    instance = program(("mmap", "a", 2 * MIB), ("touch", "a", 0, MIB), ("advise", "a", 0, 16 * PAGE, "dontneed"),
                       ("compute", 1e9), ("touch", "a", MIB, MIB))  # fmt: skip
    env = make(workload=instance, window_ms=2e3, window_faults=17, default_sizes="64K").unwrapped
    env.reset(seed=0)
    observation, *_ = env.step(KEEP)
    vma = dict(zip(VMA, observation["vma"].tolist(), strict=True))
    system = dict(zip(SYSTEM, observation["system"].tolist(), strict=True))
    assert vma["size"] == pytest.approx(np.log2(513) / 24)
    assert vma["resident"] == pytest.approx((256 - 16 + 16) / 512), "the 17th fault came after the hole was made"
    assert vma["mapped_64K"] == 1
    assert vma["faults"] == pytest.approx(np.log2(18) / 16)
    assert vma["pages_per_fault"] == pytest.approx(np.log2(17) / 10)
    assert vma["zapped"] == pytest.approx(np.log2(17) / 20)
    assert vma["zap_size"] == pytest.approx(np.log2(17) / 10)
    assert vma["aligned"] == 1
    assert vma["asked"] == 1
    assert vma["dirty"] == 1
    assert system["memory"] == pytest.approx(np.log2(65) / 20)
    assert system["resident"] == pytest.approx(256 / (64 * 256))
    assert system["faults"] == pytest.approx(np.log2(18) / 16)
    assert system["vmas"] == pytest.approx(np.log2(2) / 16)
    assert 0.97 < system["free"] < 1 - 256 / (64 * 256)


def test_counts_begin_anew_when_a_vma_was_asked_about() -> None:
    instance = program(
        ("mmap", "a", 4 * MIB), ("touch", "a", 0, MIB), ("compute", 1e7), ("touch", "a", MIB, 2 * MIB),
        ("advise", "a", 0, 32 * PAGE, "dontneed"), ("compute", 1e7), ("touch", "a", 3 * MIB, MIB),
    )  # fmt: skip
    env = make(workload=instance, window_ms=10, window_faults=1 << 40, default_sizes="64K").unwrapped
    env.reset(seed=0)
    seen = [dict(zip(VMA, env.step(KEEP)[0]["vma"].tolist(), strict=True)) for _ in range(2)]
    assert [round(2 ** (16 * v["faults"]) - 1) for v in seen] == [16, 32]
    assert [round(2 ** (20 * v["faults_ever"]) - 1) for v in seen] == [16, 48]
    assert [round(2 ** (20 * v["zapped"]) - 1) for v in seen] == [0, 32]
    assert [v["asked"] for v in seen] == [1, 1]


def test_the_terminal_observation_is_in_the_space() -> None:
    env = make(workload=small_program())
    last = play(env, seed=0).observations[-1]
    assert last in env.observation_space
    assert not last["vma"].any()


def test_a_program_without_a_vma_to_decide_about_ends_at_the_first_step() -> None:
    env = make(workload=program(("mmap", "a", 4 * PAGE), ("touch", "a", 0, 4 * PAGE)))
    episode = play(env, seed=0)
    assert len(episode.rewards) == 1
    assert episode.infos[-1]["metrics"]["faults"] == 4
    assert episode.rewards[0] == pytest.approx(-episode.infos[-1]["metrics"]["cost_ns"])
