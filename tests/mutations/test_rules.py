"""The table of mutations fits the source and the recordings; `make mutations` builds and runs them."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from mutations.rules import MUTATIONS

ROOT = Path(__file__).parents[2]


def test_every_rule_has_a_mutation():
    assert {f"R{n}" for n in range(1, 52)} <= set(MUTATIONS)


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_mutation_changes_one_place_of_the_source(rule):
    name, old, new, _ = MUTATIONS[rule]
    assert (ROOT / "thp_env/machine" / name).read_text().count(old) == 1
    assert new != old


def test_the_scenarios_are_recorded():
    with lzma.open(ROOT / "tests/data/rules.jsonl.xz", "rt") as file:
        names = {json.loads(line)["name"] for line in file}
    assert {scenario for *_, scenario in MUTATIONS.values() if "::" not in scenario} <= names


def test_the_tests_exist():
    for *_, test in MUTATIONS.values():
        path, _, name = test.partition("::")
        assert not name or f"\ndef {name}(" in (ROOT / path).read_text(), test
