"""The file of an evaluation's results, and what is chosen on validation."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.episodes import small_program
from support.runs import runs_of
from thp_agents import evaluate_command
from thp_agents.cli import main
from thp_agents.evaluation import choice
from thp_agents.evaluation.choice import LINUX, choose, load_choice, save_choice
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.results import PolicyRow, ProgramRow, Results, RunRow, load_results, save_results
from thp_agents.evaluation.tables import where_known
from thp_agents.policy import PolicyError

from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.traces import save_program

WHERE = ("f", "w")
COSTS = {LINUX: 2.0, "rule": 1.6, "other": 1.7, "learned": 1.5, "worse": 1.55, "static_oracle": 1.0}
KINDS = {name: "heuristic" for name in COSTS} | {
    "learned": "learned", "worse": "learned", "static_oracle": "reference"
}  # fmt: skip


def compared(**costs: float) -> Comparison:
    table = {name: {WHERE: [cost, cost]} for name, cost in {**COSTS, **costs}.items()}
    return Comparison(runs_of(table), LINUX, KINDS)


def test_the_best_heuristic_and_the_best_agent_against_it_are_chosen(tmp_path: Path) -> None:
    chosen = choose(compared(), "validation", "0123")
    assert (chosen.reference, chosen.headline) == ("rule", "learned"), "no search that knows the program"
    assert [row.policy for row in chosen.table] == ["learned", "worse", "rule", "other", LINUX]
    assert choose(compared(other=1.4), "validation", "").reference == "other"
    path = tmp_path / "choice.json"
    assert load_choice(path) is None
    save_choice(chosen, path)
    assert load_choice(path) == chosen
    path.write_text("{}")
    with pytest.raises(PolicyError, match="not a choice of policies"):
        load_choice(path)


def test_without_linux_there_is_no_choice() -> None:
    runs = [r for r in compared().runs if r.policy != LINUX]
    with pytest.raises(PolicyError, match="let it take part"):
        choose(Comparison(runs, "rule", KINDS), "validation", "")


def test_a_bound_counts_where_it_is_known() -> None:
    """On the first of two programs the bound saves 30 and the agent 15; on the second the agent loses."""
    costs = {"rule": [1.0, 1.0], "learned": [float(np.exp(-0.15)), 3.0]}
    kinds = {"rule": "heuristic", "learned": "learned"}
    runs = runs_of({name: {("f", "a"): of[:1], ("g", "b"): of[1:]} for name, of in costs.items()})
    rows = [RunRow(r.policy, 0, r.family, r.workload, 0, 1, "done", r.metrics) for r in runs]
    programs = [ProgramRow(w, "small", 0, "d") for w in ("a", "b")]
    results = Results("t", "", [PolicyRow(n, 0, kind) for n, kind in kinds.items()], programs, rows)
    line = where_known(results, runs_of({"bound": {("f", "a"): [float(np.exp(-0.3))]}}))
    assert line.startswith("on 1 of 2 cases the bound is known; there it saves +30.0 ")
    assert "against rule, 50% of it by learned (learned +15.0 " in line


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """Evaluate two policies; return the file of results and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "CHOICE", tmp_path / "none.json")
    save_program(small_program(), "small.npz")
    words = ["evaluate", "--policies", "never", "64K", "ppo", "--workloads", "small.npz", "--seeds", "0", "1"]
    assert main([*words, "--quiet", "--results", "results.json", "--csv", "first.csv", "--processes", "1"]) == 0
    return tmp_path / "results.json", capsys.readouterr().out.replace("results: results.json\n", "")


def test_tables_and_pictures_are_made_from_the_file_alone(
    results: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, printed = results
    (tmp_path / "small.npz").unlink()
    assert main(["evaluate", "--from", "results.json", "--csv", "second.csv", "--report", "report"]) == 0
    assert capsys.readouterr().out.replace("report: report/index.html\n", "") == printed
    assert (tmp_path / "second.csv").read_bytes() == (tmp_path / "first.csv").read_bytes()
    assert (tmp_path / "report" / "savings.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report" / "results.json").read_bytes() == path.read_bytes()


def test_a_packed_file_holds_the_same(
    results: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, printed = results
    assert main(["evaluate", "--from", "results.json", "--results", "packed.json.xz"]) == 0
    capsys.readouterr()
    packed = (tmp_path / "packed.json.xz").read_bytes()
    assert lzma.decompress(packed) == path.read_bytes()
    assert main(["evaluate", "--from", "packed.json.xz"]) == 0
    assert capsys.readouterr().out == printed
    for data in (packed[:-20], b"{}", lzma.compress(bytes(80 << 20))):
        (tmp_path / "packed.json.xz").write_bytes(data)
        assert main(["evaluate", "--from", "packed.json.xz"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_file_names_what_decided_the_results(results: tuple[Path, str]) -> None:
    loaded = load_results(results[0])
    policies = {p.name: p for p in loaded.policies}
    assert set(policies) == {"never", "64K", "ppo", "static_oracle"}
    assert all(p.code for p in loaded.policies if p.kind != "reference")
    assert policies["ppo"].digest
    assert {len(p.program) for p in loaded.programs} == {16}
    assert {(p.workload, p.seed) for p in loaded.programs} == {("small.npz", 0), ("small.npz", 1)}
    assert loaded.prices["memory"] > 0


def test_only_results_of_validation_choose(results: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--from", "results.json", "--choose"]) == 2
    assert "would be cheating" in capsys.readouterr().err


def test_a_choice_is_made_from_a_file_of_validation_results(
    results: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "choice.json"
    monkeypatch.setattr(evaluate_command, "load_choice", lambda: load_choice(path))
    monkeypatch.setattr(evaluate_command, "save_choice", lambda chosen: save_choice(chosen, path))
    words = ["evaluate", "--policies", "never", "64K", "linux_6_18", "ppo", "--workloads", "small.npz", "--quiet",
             "--seeds", "0", "1"]  # fmt: skip
    assert main([*words, "--results", "all.json", "--processes", "1"]) == 0
    save_results(msgspec.structs.replace(load_results(tmp_path / "all.json"), suite="validation"), tmp_path / "v.json")
    assert main(["evaluate", "--from", "v.json", "--choose", "--results", "chosen.json"]) == 0
    chosen = load_choice(path)
    assert chosen is not None
    assert f"chosen: {chosen.headline} against {chosen.reference}" in capsys.readouterr().out
    assert (chosen.headline, load_results(tmp_path / "chosen.json").choice) == ("ppo", chosen)


def test_the_test_side_is_closed_until_something_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = msgspec.structs.replace(choose(compared(), "validation", "0"), behaviour=BEHAVIOUR + 1)
    for chosen in (None, other):
        monkeypatch.setattr(evaluate_command, "load_choice", lambda chosen=chosen: chosen)
        assert main(["evaluate", "--suite", "test", "--quiet"]) == 2
        assert "--suite validation --choose before the test side is run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_reference_and_linux_always_take_part() -> None:
    entries = evaluate_command.participants(["64K"], ("never", LINUX, "all"))
    assert [e.name for e in entries] == ["never", LINUX, "all", "64K"]
    assert [e.name for e in evaluate_command.participants([LINUX, "never"], ("never", LINUX, LINUX))] == [
        LINUX, "never"
    ]  # fmt: skip


def test_an_edited_file_is_refused(results: tuple[Path, str]) -> None:
    path, _ = results
    data = json.loads(path.read_text())
    data["results"]["runs"][0]["metrics"]["reward"] = 0.0
    path.write_text(json.dumps(data))
    with pytest.raises(PolicyError, match="it was edited"):
        load_results(path)
    for text in ("{}", "[]", '{"format": "thp_env results 1", "digest": "", "results": {}}'):
        path.write_text(text)
        with pytest.raises(PolicyError):
            load_results(path)
