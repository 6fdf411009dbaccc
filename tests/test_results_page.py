"""The tables of the test side, on the page of results and in README, are what the file of results says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.docs import DOCS
from thp_agents.evaluation.choice import load_choice
from thp_agents.evaluation.clairvoyant import CLAIRVOYANT
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.results import Results, load_results
from thp_agents.evaluation.tables import by_family, savings

FILE = DOCS / "experiments" / "test.json.xz"


@pytest.fixture(scope="module")
def results() -> Results:
    return load_results(FILE)


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the rows of tables by their first cell, without what it says of trainings."""
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {re.sub(r"( \(.*\)|, .*)$", "", first).strip("*"): others for first, *others in rows}


def test_tables_are_those_of_the_file(results: Results) -> None:
    section = (DOCS / "experiments" / "results.md").read_text().split("## Validation")[0]
    first, second = section.split("\n| policy |")[1:]
    full, family = rows_of(first), rows_of(second)
    for name, *cells in savings(results)[1]:
        policy = name.split(" ")[0]
        assert [c.replace("+0.0 [+0.0, +0.0]", "0") for c in cells] == full[policy], policy
    rows = {name.split(" ")[0]: cells for name, *cells in by_family(results)[1]}
    shown = {policy: cells for policy, cells in family.items() if policy in rows}
    assert len(shown) > 10
    assert shown == {policy: rows[policy] for policy in shown}
    readme = rows_of((DOCS.parent / "README.md").read_text().split("## Results")[1].split("\nSpeed")[0])
    assert readme.keys() - full.keys() <= {"policy", "---"}
    for policy in readme.keys() & full.keys() - {"ski_rental", "policy"}:
        assert readme[policy] == full[policy], policy


def test_shares_of_the_clairvoyants_saving_are_those_of_its_file(results: Results) -> None:
    searched = {(case.workload, case.seed): outcome.metrics for case, outcome in CLAIRVOYANT.load().items()}
    runs = [row.run for row in results.runs if (row.workload, row.seed) in searched]
    bound = [replace(run, policy="clairvoyant", key="clairvoyant", metrics=searched[run.workload, run.seed])
             for run in runs if run.policy == results.reference]  # fmt: skip
    assert len(bound) == 25
    c = Comparison([*runs, *bound], results.reference, results.kinds)
    text = " ".join((DOCS / "experiments" / "results.md").read_text().split())
    assert f"a clairvoyant saves {c.saving('clairvoyant')} against `ski_rental`" in text
    share = {name: f"{c.share_of(name, 'clairvoyant'):.0%}".replace("%", " %")
             for name in ("maskable_ppo_cloned_ensemble", "maskable_ppo_cloned", results.headline,
                          "collapse_everywhere")}  # fmt: skip
    agent, trainings, headline, rule = share.values()
    assert f"`maskable_ppo_cloned_ensemble` reaches {agent} of it, its ten trainings {trainings}, the headline" in text
    assert f"the headline {headline}, `collapse_everywhere` {rule}." in text
    assert f"it reaches {agent}." in " ".join((DOCS.parent / "README.md").read_text().split())


def test_what_was_run_is_what_was_chosen_and_all_of_it(results: Results) -> None:
    choice = load_choice()
    assert choice is not None
    assert (results.suite, results.reference, results.headline) == ("test", choice.reference, choice.headline)
    assert len(results.comparison.instances) == 216
    assert len(results.comparison.families) == 20
    assert not results.failures
    assert Path(FILE).stat().st_size < 2 << 20
