"""The profile: fixed settings, a rule and a search on the same instance, and what the tables say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from thp_agents.cli import main
from thp_agents.evaluation.search import SETTINGS, births, groups, run_setting, search
from thp_agents.policy import PolicyError
from thp_agents.profile import CONTENDERS, RULE_NAME, SEARCH_NAME, Profile, as_json, from_json, profile, run_rule
from thp_agents.profile_report import best, claims_table, cost, summary, summary_table, workload_table
from thp_workloads import generators

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import MachineConfig
from thp_env.machine.prices import TERMS
from thp_env.metrics import run_metrics
from thp_env.traces import ProgramBuilder, save_program
from thp_env.workload import Instance

MIB, PAGE = 1 << 20, 4096


def two_needs() -> Instance:
    """Return a program with a dense hot table, for which 2M is best, and a sparse one, for which 4K is."""
    b = ProgramBuilder(seed=1)
    b.mmap("dense", 16 * MIB)
    b.mmap("sparse", 64 * MIB)
    b.touch("dense", 0, 16 * MIB)
    b.touch("sparse", 0, 64 * MIB, stride=2 * MIB)
    b.access("dense", 0, 16 * MIB, "uniform", 20_000, ns=10, weight=1000)
    b.compute(5e8)
    return Instance(b.build(), MachineConfig(memory=256 * MIB))


def total(machine) -> float:
    return run_metrics(machine, 1.0)["cost_ns"]


def test_the_search_finds_what_each_vma_needs() -> None:
    instance = two_needs()
    machine, chosen = search(instance, "2M")
    assert chosen["dense"] in ("2M", "all")
    assert chosen["sparse"] == "4K"
    singles = [total(run_setting(instance, sizes)) for sizes in SETTINGS.values()]
    assert total(machine) < 0.8 * min(singles)


@pytest.mark.parametrize("start", ["4K", "64K", "all"])
def test_the_search_never_loses_to_where_it_began(start: str) -> None:
    for name in ("js_heap", "kernel_build", "colocate"):
        instance = generators()[name].sample(np.random.default_rng(5), "tiny")
        machine, _ = search(instance, start, most=4, rounds=1)
        assert total(machine) <= total(run_setting(instance, start)) * (1 + 1e-12)


def test_cutting_and_cloning_change_nothing() -> None:
    """A search that may change nothing ends where a plain run of the same sizes ends."""
    instance = generators()["redis_delete"].sample(np.random.default_rng(1), "tiny")
    machine, chosen = search(instance, "64K", rounds=0)
    assert machine == run_setting(instance, "64K")
    assert set(chosen.values()) == {"64K"}


def test_the_rule_by_size() -> None:
    b = ProgramBuilder()
    b.mmap("small", 24 * PAGE)
    b.mmap("large", 4 * MIB)
    b.compute(2e7)  # a window, in which nothing is touched
    b.touch("small", 0, 24 * PAGE)
    b.touch("large", 0, 4 * MIB)
    machine = run_rule(Instance(b.build(), MachineConfig(memory=256 * MIB)))
    orders = {v.pages: v.orders for v in machine.vmas()}
    assert orders == {24: ORDER_MASKS["64K"], 1024: ORDER_MASKS["2M"]}
    assert machine.counters.stat("anon_fault_alloc", 9) == 2


def test_groups_are_roles_cut_by_birth() -> None:
    found = [(1, "heap"), *((10 + i, "job") for i in range(8))]
    assert groups(found, 1) == [("heap", [1]), ("job", list(range(10, 18)))], "a group for each role in any case"
    assert groups(found, 3) == [("heap", [1]), ("job 1", [10, 11, 12, 13]), ("job 2", [14, 15, 16, 17])]
    assert len(groups(found, 100)) == 9
    assert groups([], 4) == []


def test_births_are_those_of_vmas() -> None:
    b = ProgramBuilder()
    b.mmap("a", MIB)
    b.mmap("tiny", 8 * PAGE)
    b.mmap("stack", MIB, nohugepage=True)
    b.mmap("b7", MIB)
    b.touch("a", 0, MIB)
    assert births(Instance(b.build(), MachineConfig(memory=256 * MIB))) == [(0, "a"), (3, "b")]


def made_up() -> list[Profile]:
    """Return results in which 2M wins on gups, never on js_heap, and the best per VMA saves a tenth more."""
    costs = {"gups": {"2M": 0.5, SEARCH_NAME: 0.45}, "js_heap": {"never": 1.0, SEARCH_NAME: 0.9}}
    metrics = dict.fromkeys(
        ("walk_cycles_per_access", "faults", "wasted_mib", "splits", "fallbacks", "swapped", "resident_mib",
         "kernel_cost", "fallback_share", *TERMS, "memory_cost", "pending_cost"), 1.0)  # fmt: skip
    return [
        Profile(w, seed, c, {**metrics, "memory_cost": costs[w].get(c, 1.2), "time_ms": 10 / (1 + costs[w].get(c, 1.2)),
                             "total_ns": 1e9 * (1 + seed) * costs[w].get(c, 1.0 if c == "never" else 1.2)}, False)
        for w in costs for seed in (0, 1) for c in CONTENDERS
    ]  # fmt: skip


def test_tables_say_who_wins() -> None:
    results = made_up()
    assert cost(results, "gups", "2M") == pytest.approx(0.5)
    assert [best(results, w) for w in ("gups", "js_heap")] == ["2M", "never"]
    _, rows = summary_table(results)
    assert [[row[-3], row[-1]] for row in rows] == [["2M", "10.0%"], ["never", "10.0%"]]
    assert [row[-2] for row in rows] == ["less memory than never", "less memory than 64K"]
    header, rows = workload_table(results, "gups")
    assert [row[0] for row in rows] == list(CONTENDERS)
    assert all(len(row) == len(header) for row in rows)
    assert "2M on gups" in summary(results)
    assert "never on js_heap" in summary(results)


def test_disagreement_with_a_source_is_shown() -> None:
    _, rows = claims_table(made_up())
    assert {row[0] for row in rows} == {"gups", "js_heap"}
    (gups,) = [row for row in rows if row[0] == "gups"]
    assert float(gups[4]) == pytest.approx((10 / 2.2) / (10 / 1.5), abs=1e-3)
    assert gups[5] == "**no**"


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    results = made_up()
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(as_json(results)))
    facts, read = from_json(path)
    assert read == results
    assert facts["seeds"] == {"gups": [0, 1], "js_heap": [0, 1]}
    assert {"version", "date"} <= set(facts)


def test_in_two_processes_as_in_one(tmp_path: Path) -> None:
    paths = []
    for i in range(2):
        save_program(generators()["gups"].sample(np.random.default_rng(i), "tiny").program, tmp_path / f"g{i}.npz")
        paths.append(str(tmp_path / f"g{i}.npz"))
    assert repr(profile(paths, 1, 2, quiet=True)) == repr(profile(paths, 1, 1, quiet=True))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.txt").write_text("mmap a 4M\nwrite a 0 4M\naccess a 0 4M uniform count=9000 ns=3 weight=50\n")
    mine, out = str(tmp_path / "mine.txt"), tmp_path / "profile.json"
    assert main(["workloads", mine, "--profile", "--seeds", "1", "--quiet", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for contender in (*SETTINGS, RULE_NAME, SEARCH_NAME):
        assert contender in text
    assert len(from_json(out)[1]) == len(CONTENDERS)
    assert main(["workloads", mine, "--profile", "--seeds", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == len(CONTENDERS)
    assert main(["workloads", "nonsense", "--profile"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", '{"behaviour": 2}', "{" * 9])
def test_a_file_that_is_no_profile_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"profile\.json: "):
        from_json(path)
