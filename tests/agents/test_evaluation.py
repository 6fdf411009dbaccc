"""The evaluation: deterministic, complete whatever one policy does, and what a person sees of it."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from support.episodes import KEEP, MIB, PAGE, small_program, small_workload, sparse
from thp_agents.catalogue import find_policy
from thp_agents.evaluate_command import trained_before
from thp_agents.evaluation.episode import Run, evaluate_one
from thp_agents.evaluation.pictures import COSTS, address_space
from thp_agents.evaluation.report import index, write_report
from thp_agents.evaluation.results import PolicyRow, Results, RunRow
from thp_agents.evaluation.run import compare, entries_of, entry
from thp_agents.evaluation.tables import COLUMNS, figures, format_table, lead, write_csv
from thp_agents.files import write_text
from thp_agents.plug_ins import policies
from thp_agents.policy import Policy, PolicyError

from thp_env.machine import MachineConfig
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance


class Scripted(Policy):
    """A policy of which a test replaces one verb."""

    source = "a test"

    def __init__(self, name: str, **changes) -> None:
        self.name = name
        for key, value in changes.items():
            setattr(self, key, value)

    def decide(self, observation, view) -> int:
        return KEEP


def boom(*arguments: object) -> int:
    raise RuntimeError("out of ideas")


def known(*names: str) -> list:
    return [find_policy(name) for name in names]


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    workloads = [small_workload("one"), small_workload("two")]
    found, failed = compare(known("never", "64K", "mthp_autopilot"), workloads, (0, 1), frames=8, quiet=True)
    assert not failed
    return found


def test_every_policy_runs_every_workload_and_seed(runs: list[Run]) -> None:
    ran = {(r.policy, r.workload, r.seed) for r in runs}
    assert ran == {(p, w, s) for p in ("never", "64K", "mthp_autopilot") for w in ("one", "two") for s in (0, 1)}
    assert len(runs) == 12


def test_policies_are_compared_on_the_same_programs(runs: list[Run]) -> None:
    again = evaluate_one(find_policy("64K"), small_workload("one"), 1, frames=8)
    mine = next(r for r in runs if (r.policy, r.workload, r.seed) == ("64K", "one", 1))
    assert again.metrics == mine.metrics
    assert again.decisions == mine.decisions
    for a, b in zip(again.frames, mine.frames, strict=True):
        assert np.array_equal(a.orders, b.orders)
        assert (a.time_ms, a.blocks, a.resident_mib) == (b.time_ms, b.blocks, b.resident_mib)
    other = next(r for r in runs if (r.policy, r.workload, r.seed) == ("64K", "one", 0))
    assert other.metrics != mine.metrics


def test_rewards_are_the_costs(runs: list[Run]) -> None:
    for r in runs:
        assert r.metrics["reward"] == pytest.approx(-r.metrics["cost_ns"])
        assert -0.05 <= r.metrics["tlb_reach"] <= 1
        assert r.reason == "done"


def test_pictures_show_the_address_space(runs: list[Run]) -> None:
    for r in runs:
        assert 2 <= len(r.frames) <= 17
        times = [f.time_ms for f in r.frames]
        assert times == sorted(times)
        assert times[-1] == pytest.approx(r.metrics["time_ms"])
    last = {r.policy: r.frames[-1] for r in runs}
    assert set(np.unique(last["never"].orders)) == {-2, -1, 0}, "the zero page, nothing, 4K"
    assert 4 in last["64K"].orders
    assert sum(last["never"].blocks) == 6 * MIB
    share = (last["never"].orders >= 0).mean()  # a cell stands for what is in its middle
    assert share * 6 == pytest.approx(last["never"].resident_mib, abs=0.5)


FAULTY = {
    "raises": Scripted("raises", decide=boom),
    "fails in reset": Scripted("fails in reset", reset=boom),
    "too large": Scripted("too large", decide=lambda *a: 14),
    "negative": Scripted("negative", decide=lambda *a: -1),
    "fraction": Scripted("fraction", decide=lambda *a: 1.5),
    "nothing": Scripted("nothing", decide=lambda *a: None),
    "a name": Scripted("a name", decide=lambda *a: "2M"),
    "default": Scripted("default", default_sizes="3K"),
}
REASONS = {"raises": "out of ideas", "fails in reset": "out of ideas", "too large": "14", "negative": "-1",
           "default": "'3K'"}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_policy_is_left_out_and_the_rest_completes(name: str) -> None:
    chosen = [find_policy("never"), FAULTY[name], find_policy("64K")]
    found, failed = compare(chosen, [small_program(0)], (0, 1), quiet=True)
    assert [(r.policy, r.seed) for r in found] == [("never", 0), ("never", 1), ("64K", 0), ("64K", 1)]
    assert list(failed) == [name]
    assert name in failed[name]
    assert REASONS.get(name, "") in failed[name]


def test_a_policy_that_fails_late_has_no_rows() -> None:
    def decide(observation, view) -> int:
        decide.asked += 1
        return KEEP if decide.asked < 4 else boom()

    decide.asked = 0
    found, failed = compare(
        [Scripted("late", decide=decide), *known("never")], [small_workload()], (0, 1, 2, 3, 4), quiet=True
    )
    assert {r.policy for r in found} == {"never"}
    assert list(failed) == ["late"]


def test_two_policies_of_one_name_are_refused() -> None:
    with pytest.raises(PolicyError, match="two policies are called 'never'"):
        compare(known("never", "never"), [small_program()], quiet=True)


def test_a_program_without_decisions() -> None:
    b = ProgramBuilder("tiny")
    b.mmap("a", 4 * PAGE)
    b.touch("a", 0, 4 * PAGE)
    run = evaluate_one(find_policy("all"), Instance(b.build(), MachineConfig(memory=32 * MIB)), 0, frames=3)
    assert run.metrics["faults"] == 1
    assert run.reason == "done"


def run_of(policy: str, reward: float, reason: str = "done", **metrics: float) -> Run:
    values = dict.fromkeys((*COSTS, *(m for m, _ in COLUMNS.values())), 0.0) | metrics | {"reward": reward}
    return Run(policy, "w", 0, values, 1, reason)


def test_the_table_by_hand() -> None:
    runs = [
        run_of("a", -3.0, faults=10, tlb_reach=0.25), run_of("b", -1.0, faults=7), run_of("a", -2.0, faults=20),
        run_of("b", -2.5, "oom", faults=8),
    ]  # fmt: skip
    header, rows = figures(runs)
    assert header == ["policy", *COLUMNS]
    by_column = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["policy"] for row in by_column] == ["b (1 OOM)", "a"], "the best first"
    assert [row["reward"] for row in by_column] == ["-1.750", "-2.500"]
    assert [row["faults"] for row in by_column] == ["8", "15"]
    assert by_column[1]["TLB reach"] == "0.125"
    text = format_table(header, rows).splitlines()
    assert len({len(line) for line in text}) == 1, "columns stand under one another"
    markdown = format_table(header, rows, markdown=True).splitlines()
    assert len(markdown) == 4
    assert all(line.count("|") == len(header) + 1 for line in markdown)


def results_of(runs: list[Run], title: str = "t", **more) -> Results:
    """Return runs as results of an evaluation."""
    kinds = {name: "heuristic" for name in dict.fromkeys(r.policy for r in runs)} | more.pop("kinds", {})
    rows = [RunRow(r.policy, r.training, r.family, r.workload, r.seed, r.decisions, r.reason, r.metrics) for r in runs]
    return Results(title, "", [PolicyRow(name, 0, kind) for name, kind in kinds.items()], [], rows, **more)


def test_the_sentence_names_who_won_and_by_how_much() -> None:
    runs = [run_of("plain", -2.0), run_of("mine", -1.0), run_of("linux_6_18", -1.5)]
    text = lead(results_of(runs, kinds={"mine": "learned"}))
    assert text.startswith("mine saves +40.5 (one run, no interval) against linux_6_18 "), "log 1.5, the cap"
    assert "it is cheaper on 100% of instances" in text
    assert lead(results_of(runs[:1])).endswith("Nothing learned took part.")


def test_the_csv_has_every_run_and_exact_figures(runs: list[Run], tmp_path: Path) -> None:
    write_csv(runs, tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(runs)
    for row, r in zip(rows, runs, strict=True):
        assert (row["policy"], row["workload"], row["seed"], row["reason"]) == (
            r.policy,
            r.workload,
            str(r.seed),
            "done",
        )
        assert {m: float(row[m]) for m in r.metrics} == r.metrics


def test_the_report_is_self_contained_pages(runs: list[Run], tmp_path: Path) -> None:
    results = results_of(runs, "A title & more", notes=["a note"], failures=["lost: it <failed>"])
    write_report(results, runs[:6], tmp_path / "report")
    pages = {p.name: p.read_text() for p in (tmp_path / "report").glob("*.html")}
    assert set(pages) == {"index.html", "one.html", "two.html"}
    for name, page in pages.items():
        assert set(re.findall(r'(?:src|href)\s*=\s*"([^"]{0,11})', page)) <= {"data:image/", *(n[:11] for n in pages)}
        assert not re.search(r"https?://|@import|<script|<link|url\(", page)
        images = re.findall(r'src="data:image/png;base64,([A-Za-z0-9+/=]+)"', page)
        assert len(images) == page.count("<img") == 2, name
        assert all(image.startswith("iVBORw0KGgo") for image in images), "PNG"
    page = pages["index.html"]
    for text in ("never", "64K", "mthp_autopilot", "one", "two", "A title &amp; more", "a note",
                 "lost: it &lt;failed&gt;"):  # fmt: skip
        assert text in page
    for cell in figures(runs)[1][0]:
        assert f"<td>{cell}</td>" in page


def test_names_with_brackets_and_markup_do_no_harm(runs: list[Run]) -> None:
    first = runs[0]
    strange = [Run("ppo (2) <b>", first.workload, first.seed, first.metrics, first.decisions, "oom", first.frames,
                   family=first.family)]  # fmt: skip
    page = index(results_of([*strange, first]))
    assert "ppo (2) &lt;b&gt; (1 OOM)" in page
    assert "<b>" not in page


def test_the_report_of_a_run_that_died() -> None:
    found, failed = compare(known("never", "64K"), [sparse(24)], frames=4, quiet=True)
    assert not failed
    assert {r.policy: r.reason for r in found} == {"never": "done", "64K": "oom"}
    assert "64K (1 OOM)" in index(results_of(found))
    assert figures(found)[1][0][0] == "never", "dying never wins"


def test_files_appear_whole_or_not_at_all(runs: list[Run], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    import os

    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe", "gone/report.html", "folder/../gone/x.html"):
        with pytest.raises(PolicyError, match="cannot write"):
            write_csv(runs, tmp_path / name)
        if name != "folder":
            with pytest.raises(PolicyError, match="cannot"):
                write_report(results_of(runs), (), tmp_path / "pipe" / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "pipe"]
    (tmp_path / "old.html").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "old.html", "\udcff")
    assert (tmp_path / "old.html").read_text() == "old"
    write_text(tmp_path / "old.html", "new")
    assert (tmp_path / "old.html").read_text() == "new"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "old.html", "pipe"], "no scraps"


def test_all_policies_rank_alike_twice() -> None:
    first, _ = compare([make() for make in policies().values()], [small_program(7)], quiet=True)
    second, _ = compare([make() for make in reversed(policies().values())], [small_program(7)], quiet=True)
    assert figures(first) == figures(second)


def test_panels_side_by_side_share_their_axes(runs: list[Run]) -> None:
    of_one = [run for run in runs if run.workload == runs[0].workload and run.seed == runs[0].seed]
    figure = address_space(of_one)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == len(of_one) > 1
    assert len({ax.get_xlim() for ax in panels}) == len({ax.get_ylim() for ax in panels}) == 1
    assert panels[0].get_xlim() == (0, max(run.frames[-1].time_ms for run in of_one))


def test_the_report_shows_how_the_agent_learned(runs: list[Run]) -> None:
    results = results_of(runs)
    before = index(results)
    results.policies[0].curve = [(100, -1.0), (200, 0.5)]
    page = index(results)
    assert page.count("<img") == before.count("<img") + 1
    assert "Learning curves" in page


def test_what_was_trained_on_another_behaviour_is_named() -> None:
    entries = [entry("64K"), entry("ppo#0")]
    assert entries[0].behaviour == BEHAVIOUR
    old = dataclasses.replace(entries[1], behaviour=BEHAVIOUR - 1)
    assert trained_before(entries[:1]) == []
    (line,) = trained_before([entries[0], old])
    assert line == f"ppo was trained on behaviour {BEHAVIOUR - 1} of the simulator; this is {BEHAVIOUR}"


def test_a_name_stands_for_all_its_trainings() -> None:
    entries = entries_of(["rollouts_on_ski_rental", "ppo#0", "64K"])
    trainings = [("rollouts_on_ski_rental", i) for i in range(5)]
    assert [(e.name, e.training) for e in entries] == [*trainings, ("ppo", 0), ("64K", 0)]
    assert len({e.digest for e in entries[:5]}) == 5
