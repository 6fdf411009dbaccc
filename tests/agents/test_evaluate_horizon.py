"""Evaluations of programs that are meant to run longer than their recording."""

from __future__ import annotations

import pytest
from support.episodes import MIB
from thp_agents.cli import main
from thp_agents.durations import Duration
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.heuristics.kernel_settings import KernelSetting
from thp_agents.policy import Policy

from thp_env.traces import Program, ProgramBuilder

STEPS = 20_000
HALF_NS = 4e7


def program(times: int) -> Program:
    """Return a program that maps and uses memory, and then goes on using it, so many times as long."""
    b = ProgramBuilder("server")
    b.mmap("heap", 16 * MIB)
    b.touch("heap", 0, 16 * MIB)
    touching = float(b.build().own_ns.sum())
    b.access("heap", 0, 16 * MIB, "uniform", STEPS, ns=(HALF_NS - touching) / STEPS)
    for _ in range(times):
        b.access("heap", 0, 16 * MIB, "uniform", STEPS, ns=HALF_NS / STEPS)
    return b.build()


def whole_cost(policy: Policy, times: int, horizon: float | None = None) -> dict[str, float]:
    """Return what a run costs, in ns by term."""
    workload = program(times)
    metrics = evaluate_one(policy, workload, 0, horizon=horizon).metrics
    names = ("cost_ns", "walk_cost", "memory_cost", "fault_cost", "reward")
    return {name: metrics[name] * float(workload.work.sum()) for name in names}


@pytest.mark.parametrize("sizes", ["4K", "2M"])
def test_a_horizon_repeats_the_second_half(sizes: str) -> None:
    policy = KernelSetting("it", sizes, "", khugepaged=False)
    four_times = whole_cost(policy, 4)
    until_then = whole_cost(policy, 1, horizon=5 * HALF_NS / 1e9)
    assert until_then["reward"] == -until_then["cost_ns"]
    for name in ("walk_cost", "memory_cost", "cost_ns"):
        assert until_then[name] == pytest.approx(four_times[name], rel=0.03), name
    assert until_then["fault_cost"] == pytest.approx(whole_cost(policy, 1)["fault_cost"], rel=1e-6)
    alone = whole_cost(policy, 1)
    assert whole_cost(policy, 1, horizon=HALF_NS / 1e9) == pytest.approx(alone, rel=1e-12), "it runs longer by itself"


def test_a_horizon_is_the_evaluations_and_not_a_policys() -> None:
    policy = KernelSetting("it", "4K", "")
    policy.arguments = {**policy.arguments, "horizon": 3600.0}
    assert whole_cost(policy, 1) == whole_cost(KernelSetting("it", "4K", ""), 1)


def test_results_with_and_without_a_horizon_are_stored_apart(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--policies", "never", "64K", "--workloads", "hot_island", "--quiet", "--processes", "1",
             "--store", str(tmp_path / "s.jsonl"), "--csv", str(tmp_path / "r.csv")]  # fmt: skip
    rows = []
    for more in ([], ["--horizon", "1h"], [], ["--horizon", "2h"]):
        assert main([*words, *more]) == 0
        rows.append((tmp_path / "r.csv").read_text())
    assert rows[0] == rows[2]
    assert len(set(rows)) == 3
    capsys.readouterr()


@pytest.mark.parametrize("verb", ["evaluate", "recommend"])
@pytest.mark.parametrize("text", ["soon", "1", "-1s", "0s", "11000w", "1h 2m"])
def test_what_is_no_time(verb: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--quiet", "--horizon=" + text])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{text}: write a time such as 30s, 10m, 1h, 2d or 1w, at most ten years" in line


def test_a_time_prints_as_it_was_written() -> None:
    assert f"{Duration('1.5h')} {Duration('1w') / 86400:.0f}" == "1.5h 7"


def test_nothing_is_chosen_for_another_horizon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--suite", "validation", "--choose", "--horizon", "1h"]) == 2
    assert "--choose goes without --horizon" in capsys.readouterr().err
