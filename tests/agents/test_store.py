"""What is stored is found again by exactly what made it."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.episodes import small_program
from support.full_disk import full_disk
from thp_agents.cli import main
from thp_agents.evaluation import oracle, run
from thp_agents.evaluation.clairvoyant import CLAIRVOYANT
from thp_agents.evaluation.oracle import STATIC_ORACLE, decided_by
from thp_agents.evaluation.reference import Outcome, Reference
from thp_agents.evaluation.store import Store
from thp_agents.evaluation.suites import SUITES, Case, cases, content
from thp_agents.policy import PolicyError

import thp_env
from thp_env.traces import save_program

MADE = {"what": "run", "code": "a", "behaviour": 1}


def test_results_are_found_by_what_made_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.jsonl"
    store = Store(path)
    assert store.get(MADE) is None
    store.add(MADE, {"x": 1})
    store.add({**MADE, "code": "b"}, {"x": 2})
    store.add(MADE, {"x": 3})
    for again in (store, Store(path)):
        assert again.get(dict(reversed(MADE.items()))) == {"x": 3}, "the last one"
        assert again.get({**MADE, "code": "b"}) == {"x": 2}
        assert again.get({**MADE, "behaviour": 2}) is None
    assert Store(path, fresh=True).get(MADE) is None
    assert len(path.read_text().splitlines()) == 3


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    store = Store(path)
    store.add(MADE, {"x": 1})
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:-cut])
        again = Store(path)
        assert again.get(MADE) == {"x": 1}
        again.add({**MADE, "code": "b"}, {"x": 2})
        assert Store(path).get({**MADE, "code": "b"}) == {"x": 2}
        assert Store(path).get(MADE) == {"x": 1}


def test_lines_of_version_0_1_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    Store(path).add(MADE, {"x": 1})
    path.write_bytes(b'{"version": "0.1.0", "policy": "64K"}\n' + path.read_bytes())
    assert Store(path).get(MADE) == {"x": 1}


def test_what_is_no_store_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("policy,training\n")
    for name, told in (("runs.csv", "not a store"), (".", "no file"), ("runs.csv/a", "cannot be read or made")):
        with pytest.raises(PolicyError, match=told):
            Store(tmp_path / name)
    with pytest.raises(PolicyError, match="no file"):
        Store(Path("/dev/null"))
    assert (tmp_path / "runs.csv").read_text() == "policy,training\n"


def test_a_full_disk_leaves_what_was_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.jsonl")
    store.add(MADE, {"x": 1})
    size = store.path.stat().st_size
    with pytest.raises(PolicyError, match=r"cannot write .*store\.jsonl: File too large"), full_disk(size + 20):
        store.add({**MADE, "code": "b"}, {"x": 2})
    assert store.path.stat().st_size == size


# -- evaluations -----------------------------------------------------------------------------------


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[float, list[str]]]:
    """Evaluate `mine:P` on small.npz; return its reward, and what was not taken from the store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    save_program(small_program(), tmp_path / "small.npz")
    done: list[str] = []
    evaluate_one, search = run.evaluate_one, oracle.search

    def noted_run(policy, workload, seed, **options):
        done.append(policy.name)
        return evaluate_one(policy, workload, seed, **options)

    def noted_search(*arguments):
        done.append("oracle")
        return search(*arguments)

    monkeypatch.setattr(run, "evaluate_one", noted_run)
    monkeypatch.setattr(oracle, "search", noted_search)

    def evaluated(*more: str) -> tuple[float, list[str]]:
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        done.clear()
        words = ["evaluate", "--policies", "mine:P", "--workloads", "small.npz", "--store", "s.jsonl", "--quiet",
                 "--processes", "1", "--csv", "r.csv"]  # fmt: skip
        assert main([*words, *more]) == 0
        with (tmp_path / "r.csv").open() as file:
            return next(float(r["reward"]) for r in csv.DictReader(file) if r["policy"] == "mine"), list(done)

    return evaluated


def write_policy(sizes: str) -> None:
    Path("mine.py").write_text(
        f"from thp_agents.policy import Policy\nclass P(Policy):\n name, source = 'mine', 'me'\n"
        f" default_sizes = {sizes!r}\n"
        " def decide(self, observation, view):\n  return view.no_op\n"
    )


@pytest.mark.parametrize("change", [{"metrics": {}}, {"seed": 7}], ids=str)
@pytest.mark.parametrize("what", ["run", "static_oracle"])
def test_a_stored_result_that_was_edited_is_refused_by_the_name_of_the_store(
    evaluate: Callable[..., tuple[float, list[str]]], what: str, change: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    write_policy("4K")
    evaluate()
    records = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    number, record = next((i, record) for i, record in enumerate(records, 1) if record["made"]["what"] == what)
    record["result"] |= change
    Path("s.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["evaluate", "--policies", "mine:P", "--workloads", "small.npz", "--store", "s.jsonl", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"s.jsonl: not a store of results: line {number}: it was edited" in line


def test_results_of_older_versions_without_digest_are_made_anew(
    evaluate: Callable[..., tuple[float, list[str]]],
) -> None:
    write_policy("4K")
    evaluate()
    records = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    Path("s.jsonl").write_text("".join(json.dumps(r | {"digest": None}) + "\n" for r in records))
    assert evaluate()[1] == ["oracle", "never", "mine"]
    assert evaluate()[1] == []


def test_an_edit_is_evaluated(evaluate: Callable[..., tuple[float, list[str]]], monkeypatch) -> None:
    everything = ["oracle", "never", "mine"]
    write_policy("4K")
    small, done = evaluate()
    assert done == everything
    assert evaluate() == (small, []), "nothing has changed"
    write_policy("2M")
    large, done = evaluate()
    assert done == ["mine"]
    assert large != small
    save_program(small_program(seed=1), "small.npz")
    other, done = evaluate()
    assert done == everything, "the workload is another"
    assert other != large
    assert evaluate("--fresh") == (other, everything)
    assert evaluate() == (other, [])
    write_policy("4K")
    save_program(small_program(), "small.npz")
    assert evaluate() == (small, []), "back to what it was"
    monkeypatch.setattr(thp_env, "__version__", "99.0")
    assert evaluate() == (small, []), "a new version drops nothing"
    monkeypatch.setattr(run, "BEHAVIOUR", 0)
    assert evaluate()[1] == ["never", "mine"]
    monkeypatch.setattr(oracle, "BEHAVIOUR", 0)
    assert evaluate()[1] == ["oracle"]


def test_what_ended_before_a_stop_is_kept(
    evaluate: Callable[..., tuple[float, list[str]]], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_policy("4K")
    evaluate_one = run.evaluate_one

    def stopped(policy, *arguments, **options):
        if policy.name == "mine":
            raise KeyboardInterrupt
        return evaluate_one(policy, *arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(run, "evaluate_one", stopped)
        words = ["evaluate", "--policies", "mine:P", "--workloads", "small.npz", "--store", "s.jsonl", "--quiet"]
        assert main([*words, "--processes", "1"]) == 130
    told = "stopped; what is done is kept in s.jsonl, and the same command goes on from there\n"
    assert capsys.readouterr().err == told
    assert evaluate()[1] == ["mine"]


# -- what ships ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [STATIC_ORACLE, CLAIRVOYANT], ids=lambda r: r.name)
def test_the_shipped_references_are_of_what_suites_draw(reference: Reference) -> None:
    known = reference.load()
    assert known, "of this behaviour and these prices"
    wanted = {case: case for suite in SUITES for case in cases(suite)}
    assert [case for case in known if case not in wanted] == []
    assert [case for case in known if known[case].digest != content(wanted[case])] == []


def test_oracle_data_of_something_else_do_not_count(tmp_path: Path) -> None:
    found = {Case("w", "small", 0): Outcome("d", {"reward": -1.0}, {"heap": "all"})}
    path = tmp_path / "oracle.json"
    STATIC_ORACLE.save(found, path)
    assert STATIC_ORACLE.load(path) == found
    for name in decided_by():
        data = json.loads(path.read_text())
        data["decided_by"][name] = 0 if name == "behaviour" else {}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        assert STATIC_ORACLE.load(tmp_path / f"{name}.json") == {}
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(PolicyError, match="not a file of results of the static oracle"):
        STATIC_ORACLE.load(tmp_path / "bad.json")
