"""The clairvoyant: never dearer than its base rules, and what it saves is there to be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.episodes import MIB
from thp_agents.catalogue import find_policy
from thp_agents.cli import main
from thp_agents.evaluation import clairvoyant
from thp_agents.evaluation.clairvoyant import CLAIRVOYANT, solve
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.evaluation.oracle import STATIC_ORACLE
from thp_agents.evaluation.store import Store
from thp_agents.evaluation.suites import Case

from thp_env.traces import ProgramBuilder, save_program


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A dense region that 2M suits, and a sparse one in which every large folio wastes memory for long."""
    b = ProgramBuilder("both")
    for i in range(2):
        b.mmap(f"dense{i}", 8 * MIB)
        b.touch(f"dense{i}", 0, 8 * MIB)
    b.mmap("sparse", 64 * MIB)
    for block in range(32):
        b.touch("sparse", block * 2 * MIB, 4096)
    b.access("dense0", 0, 8 * MIB, "uniform", 200_000)
    b.compute(3e9)
    save_program(b.build(), tmp_path / "both.npz")
    return Case(str(tmp_path / "both.npz"), "small", 0)


def test_it_costs_no_more_than_its_base_rules_and_the_static_oracle_here(case: Case) -> None:
    found = solve(case)
    for name in ("never", "64K", "16K+32K+64K", "2M", "all", "utilisation"):
        run = evaluate_one(find_policy(name), case.workload, 0)
        assert found.metrics["reward"] >= run.metrics["reward"] * (1 + 1e-9), name
    oracle = STATIC_ORACLE.solve(case)
    assert found.digest == oracle.digest
    assert found.choices["base"] in clairvoyant.BASES


def test_with_no_decisions_it_is_its_best_base_rule(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clairvoyant, "DECISIONS", 0)
    without = solve(case)
    assert set(without.choices) == {"base"}
    monkeypatch.setattr(clairvoyant, "DECISIONS", 3)
    some = solve(case)
    assert len(some.choices) <= 1 + 3
    assert some.metrics["reward"] >= without.metrics["reward"]


def test_results_are_kept_by_what_decides_them(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clairvoyant, "DECISIONS", 1)
    store = Store(tmp_path / "s.jsonl")
    first = CLAIRVOYANT.outcomes([case], quiet=True, store=store)
    assert CLAIRVOYANT.outcomes([case], quiet=True, store=Store(tmp_path / "s.jsonl"), search=()) == first
    monkeypatch.setattr(clairvoyant, "DECISIONS", 2)
    assert CLAIRVOYANT.outcomes([case], quiet=True, store=Store(tmp_path / "s.jsonl"), search=()) == {}


def test_the_command_says_which_share_of_it_a_policy_reaches(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clairvoyant, "DECISIONS", 1)
    words = ["evaluate", "--policies", "never", "64K", "--workloads", case.workload, "--processes", "1", "--quiet"]
    assert main(words) == 0
    assert "clairvoyant" not in capsys.readouterr().out
    assert main([*words, "--clairvoyant"]) == 0
    out = capsys.readouterr().out
    assert "of the clairvoyant's" in out
    row = next(line for line in out.splitlines() if line.startswith("clairvoyant "))
    assert row.split()[-1] == "1.00", "all of it by itself"
