"""Why VMAs are asked about: new ones and those that faulted; and, where it is wanted, three reasons more."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, PAGE, make, play, small_workload

from thp_env.envs.observation import REASON_FIELDS, VMA_FIELDS, WALK_FIELDS, vma_fields
from thp_env.machine import MachineConfig
from thp_env.machine.batch import Reason
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

ALL = ("zapped", "idle", "walks")


def emptied() -> Instance:
    """A heap that is filled, then given back in pieces of 16K, then left alone for a minute."""
    b = ProgramBuilder("emptied")
    b.mmap("heap", 16 * MIB)
    b.touch("heap", 0, 16 * MIB)
    b.compute(20e6)
    for piece in range(0, 16 * MIB, 16 * PAGE):
        b.advise("heap", piece, 8 * PAGE, "dontneed")
        b.compute(0.5e6)
    for _ in range(600):
        b.compute(100e6)
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def used() -> Instance:
    """A heap of 64 MiB that is filled once and then read all over."""
    b = ProgramBuilder("used")
    b.mmap("heap", 64 * MIB)
    b.touch("heap", 0, 64 * MIB)
    for _ in range(40):
        b.access("heap", 0, 64 * MIB, "uniform", 2000, ns=10, weight=100)
    return Instance(b.build(), MachineConfig(memory=128 * MIB))


def asked(workload: Instance, *reasons: str, **arguments) -> list[tuple[Reason, dict[str, float], int]]:
    """Return, of each question, its reasons, the `why_` fields, and the clock in ms."""
    env = make(workload=workload, reasons=reasons, default_sizes="64K", **{"window_ms": 5.0, **arguments})
    found = []
    names = list(env.unwrapped.task.vma_fields)

    def note(env) -> int:
        task = env.unwrapped.task
        why = {n: float(v) for n, v in zip(names, observation["vma"], strict=True) if n.startswith("why_")}
        found.append((Reason(int(task.smaps["reasons"][0, 0])), why, env.unwrapped.machine.clock_ps // 10**9))
        return 0

    observation, over = env.reset(seed=0)[0], False
    while not over:
        action = note(env)
        observation, _, over, _, _ = env.step(action)
    return found


def test_without_reasons_only_faults_are() -> None:
    questions = asked(emptied())
    assert {why for why, *_ in questions} == {Reason.NEW, Reason.FAULTS}
    assert all(not fields for _, fields, _ in questions)
    assert max(ms for *_, ms in questions) < 100, "nothing is asked about once the faults are over"


def test_a_vma_of_which_much_was_unmapped_is() -> None:
    questions = [q for q in asked(emptied(), "zapped") if q[0] & Reason.ZAPPED]
    assert 3 <= len(questions) <= 5, "half of 4,096 pages, and an eighth of them is much"
    for _, fields, ms in questions:
        assert fields == {"why_faults": 0.0, "why_zapped": 1.0}
        assert 20 < ms < 2000


def test_a_vma_that_grew_idle_is_after_twice_as_long_each_time() -> None:
    at = [ms for why, _, ms in asked(emptied(), "idle") if why == Reason.IDLE]
    gaps = np.diff(at)
    assert len(at) >= 4
    np.testing.assert_allclose(gaps[1:] / gaps[:-1], 2, rtol=0.15)


def test_a_vma_that_page_walks_name_is() -> None:
    questions = asked(used(), "walks", pmu_period=100)
    walks = [fields for why, fields, _ in questions if why & Reason.WALKS]
    assert len(walks) > 5
    assert {f["why_walks"] for f in walks} == {1.0}
    assert not [why for why, *_ in asked(used(), "idle", "zapped") if why & Reason.WALKS]
    costs = [play(make(workload=used(), reasons=r, scan_share=0), seed=0).infos[-1]["metrics"]["monitor_cost"]
             for r in ((), ("walks",))]  # fmt: skip
    assert costs[0] == 0 < costs[1], "samples take time"


def test_how_many_page_walks_there_were_is_a_field() -> None:
    env = make(workload=used(), reasons=["walks"], default_sizes="64K", window_ms=5.0, pmu_period=100)
    task, pages = env.unwrapped.task, 64 * MIB // 4096
    names = list(task.vma_fields)
    observation, over, named = env.reset(seed=0)[0], False, 0
    while not over:
        row = task.smaps[0, 0]
        walks, since = int(row["asked_walks"]) * 100, task.snapshot["clock"][0] - row["asked_clock"]
        seen = dict(zip(names, observation["vma"].tolist(), strict=True))
        if int(row["reasons"]) & Reason.WALKS:
            assert walks >= 64 * 100
            assert 2 ** (14 * seen["walks_per_page"]) - 1 == pytest.approx(walks / pages, rel=1e-3)
            assert 2 ** (17 * seen["walks"]) - 1 == pytest.approx(walks / max(1.0, since / 1e9), rel=1e-3)
            named += 1
        observation, _, over, _, _ = env.step(0)
    assert named > 5


def test_each_reason_is_a_field_by_name_and_the_others_stay() -> None:
    assert list(vma_fields(())) == list(VMA_FIELDS)
    assert list(vma_fields(ALL)) == [*VMA_FIELDS, "why_faults", "why_zapped", "why_idle", "why_walks", *WALK_FIELDS]
    assert set(REASON_FIELDS) == {"faults", *ALL}
    env = make(reasons=ALL)
    assert env.observation_space["vma"].shape == (len(vma_fields(ALL)),)
    observation, _ = env.reset(seed=0)
    plain = make().reset(seed=0)[0]["vma"]
    assert (observation["vma"][: len(VMA_FIELDS)] == plain).all()


def test_all_vmas_at_once_have_the_same_fields() -> None:
    env = make("thp_env/VmaHints-v0", reasons=ALL, slots=4, window_ms=5.0, workload=emptied())
    seen, over = set(), False
    observation, _ = env.reset(seed=0)
    names = list(vma_fields(ALL))[len(VMA_FIELDS) :]
    while not over:
        assert observation["vmas"].shape == (4, len(vma_fields(ALL)))
        seen |= {name for name, on in zip(names, observation["vmas"][0, len(VMA_FIELDS) :], strict=True) if on}
        observation, _, over, _, _ = env.step(np.zeros(4, int))
    assert seen >= {"why_faults"}


def test_states_keep_why_and_when() -> None:
    env = make(workload=emptied(), reasons=ALL, window_ms=5.0, default_sizes="64K")
    env.reset(seed=0)
    for _ in range(6):
        env.step(0)
    state = env.unwrapped.clone_state()

    def rest() -> list[bytes]:
        return [env.step(0)[0]["vma"].tobytes() for _ in range(8)]

    first = rest()
    env.unwrapped.restore_state(state)
    assert rest() == first


@pytest.mark.parametrize("reasons", [("zap",), ("faults",), "idle"])
def test_unknown_reasons_are_refused(reasons: object) -> None:
    with pytest.raises(ValueError, match="reason"):
        make(workload=small_workload(), reasons=reasons)
