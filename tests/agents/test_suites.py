"""Suites: which instances they run, and that recordings may have several."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from thp_agents.evaluate_command import _search_cases
from thp_agents.evaluation import suites
from thp_agents.evaluation.clairvoyant import CLAIRVOYANT
from thp_agents.evaluation.oracle import STATIC_ORACLE
from thp_agents.evaluation.suites import SUITES, cases, content, instance_of, workload_of
from thp_agents.policy import PolicyError

from thp_env.workload import workloads


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_runs_its_sides_alone_with_their_seeds(suite: str) -> None:
    wanted = cases(suite)
    assert {workload_of(case).split for case in wanted} == {*SUITES[suite].sides, *SUITES[suite].corpus}
    assert {case.seed // 1_000_000 for case in wanted} == {{"validation": 1, "test": 2}[SUITES[suite].seeds_of]}
    assert len(set(wanted)) == len(wanted)


def test_recordings_can_have_instances_of_other_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.SUITES, "more", dataclasses.replace(SUITES["ci"], recordings=3))
    recorded = [case for case in cases("more") if case.workload == "zstd_long"]
    assert [(case.size, case.seed) for case in recorded] == [("drawn", 1_000_000 + i) for i in range(3)]
    assert len({content(case) for case in recorded}) == 3
    as_it_was = dataclasses.replace(recorded[0], size="tiny")
    programs = {instance_of(case).program.meta["mmap_base"] for case in (*recorded, as_it_was)}
    assert len(programs) == 4, "other addresses each"
    assert {len(instance_of(case).program) for case in (as_it_was, dataclasses.replace(as_it_was, seed=5))} == {
        len(instance_of(as_it_was).program)
    }


def test_validation_chooses_by_families_that_nobody_trains_on() -> None:
    trained = {workload.family for workload in workloads().values() if workload.split == "train"}
    assert trained.isdisjoint(workload_of(case).family for case in cases("validation"))


def test_the_test_side_is_of_recordings_alone() -> None:
    from thp_env_corpus import catalogue

    wanted = cases("test")
    assert {case.workload for case in wanted} == {w.name for w in catalogue() if w.split == "test"}
    assert {case.size for case in wanted} == {"drawn"}
    assert len({workload_of(case).family for case in wanted}) >= 8


def test_a_full_suite_runs_the_corpus_where_seeds_put_it() -> None:
    from thp_env_corpus import catalogue

    wanted = cases("full_validation")
    recorded = {w.name for w in catalogue() if w.split == "validation"}
    assert recorded <= {case.workload for case in wanted}
    assert {w.name for w in catalogue() if w.split != "validation"}.isdisjoint(case.workload for case in wanted)
    for name in recorded:
        assert [(c.size, c.seed) for c in wanted if c.workload == name] == [("drawn", 1_000_000 + i) for i in range(16)]
    mine = [c for c in wanted if c.workload == "perl_hash"][:2]
    assert len({content(case) for case in mine}) == 2
    assert content(mine[0]) == content(dataclasses.replace(mine[0]))
    assert {c.size for c in wanted if workload_of(c).kind == "generator"} == {"full"}


def test_a_suite_without_its_recordings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thp_env_corpus", None)
    with pytest.raises(PolicyError, match="suite test runs recordings of real programs: make corpus"):
        cases("test")


def test_references_are_searched_where_that_is_asked_for() -> None:
    """Searches of the many instances of real programs take long; those that are to be made anew are made anew."""
    wanted = cases("validation")
    firsts = {case.workload: case for case in reversed(wanted)}
    for reference, clairvoyant, anew, number in (
        (STATIC_ORACLE, False, False, 0), (STATIC_ORACLE, False, True, len(firsts)),
        (STATIC_ORACLE, True, False, len(firsts)), (CLAIRVOYANT, False, True, 0),
        (CLAIRVOYANT, True, False, len(firsts)),
    ):  # fmt: skip
        found = _search_cases(reference, "validation", wanted, clairvoyant, anew)
        assert (len(found), {*found} <= {*firsts.values()}) == (number, True)
    assert _search_cases(STATIC_ORACLE, "ci", cases("ci"), False, False) == cases("ci")


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(PolicyError, match="did you mean 'validation'"):
        cases("validtion")
