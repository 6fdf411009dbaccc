"""The documentation: pages made from the code are up to date, and what stands in code blocks runs."""

from __future__ import annotations

import json
import lzma
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from support.docs import DOCS, build
from thp_agents.cli import parser

from thp_env.machine import Machine, MachineConfig, Status
from thp_env.traces import ProgramError, parse_program

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """Return a page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def test_pages_made_from_the_code_are_up_to_date() -> None:
    made = build().pages()
    names = {p.relative_to(DOCS).as_posix() for p in made}
    assert names >= {"reference/costs.md", "reference/environments/vma_order.md"}
    for path, text in made.items():
        assert path.read_text() == text, f"run: python docs/build.py ({path.name})"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")])
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for i, block in enumerate(blocks(page, "python")):  # a page's blocks go on from one another
        exec(compile(block, f"{page}, block {i}", "exec"), names)


def test_the_trace_program_of_the_page_runs() -> None:
    (text,) = blocks("reference/trace_programs.md", "trace")
    machine = Machine(parse_program(text), MachineConfig(memory=64 << 20))
    assert machine.run() == Status.DONE
    assert machine.counters["accesses"] == 1024 + 25_000 * 50
    (wrong,) = blocks("reference/trace_programs.md", "trace-error")
    with pytest.raises(ProgramError, match=r"wrong\.txt: line 2: heap is not mapped"):
        parse_program(wrong, "wrong.txt")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / page).read_text()):
        assert (DOCS / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_are_on_the_site(page: str) -> None:
    """MkDocs warns of no link to a file that is there and left out, even when it is strict."""
    excluded = re.search(r"^exclude_docs: \|\n((?:  .*\n)+)", (DOCS.parent / "mkdocs.yml").read_text(), re.M)[1].split()
    assert excluded
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / page).read_text()):
        assert not any(fnmatch(target.rpartition("/")[2], pattern) for pattern in excluded), target


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_verbs_exist(page: str) -> None:
    text = (DOCS / page).read_text()
    for name in re.findall(r"`((?:thp_env|tests|docs|workloads)/[\w./]+)`", text):
        assert (DOCS.parent / name).exists(), name
    verbs = parser()._subparsers._group_actions[0].choices
    for verb in re.findall(r"thp-env ([a-z]+)", text):
        assert verb in verbs, verb


def test_rules_name_their_scenarios_and_functions() -> None:
    text = (DOCS / "reference" / "rules.md").read_text()
    rules = dict(re.findall(r"^\*\*([RX]\d+)\.\*\*(.*?)(?=^\*\*[RX]\d|\Z)", text, re.M | re.S))
    assert list(rules) == [*(f"R{n}" for n in range(1, 52)), *(f"X{n}" for n in range(1, 9))]
    assert "`a03_single_64k`" in rules["R4"]
    assert "`thp_env/machine/kernel/memory.cpp:alloc_anon_folio`" in rules["R4"]
    assert "memory.cpp:zap_page_range" in rules["R17"]
    for path, function in re.findall(r"`(thp_env/[\w/.]+):(\w+)`", text):
        assert re.search(rf"\b{function}\(", (DOCS.parent / path).read_text()), (path, function)


def test_the_site_has_every_page() -> None:
    nav = set(re.findall(r"[\w/]+\.md", (DOCS.parent / "mkdocs.yml").read_text()))
    assert nav == set(PAGES)


def test_figures_of_the_recordings() -> None:
    data = Path(__file__).parent / "data"
    steps = []
    for name in ("rules", "random"):
        with lzma.open(data / f"{name}.jsonl.xz", "rt") as file:
            steps.append([len(json.loads(line)["steps"]) for line in file])
    text = " ".join((DOCS / "explanation" / "verification.md").read_text().split())
    assert f"{len(steps[0] + steps[1])} scenarios" in text
    assert f"{sum(steps[0] + steps[1])} operations" in text
    assert f"{len(steps[0])} scenarios show one rule each, {len(steps[1])} are random" in text


def test_every_page_is_reached_from_the_index() -> None:
    reached, todo = set(), ["index.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        for target in re.findall(r"\]\(([^):#]+\.md)", (DOCS / page).read_text()):
            path = (DOCS / page).parent.joinpath(target).resolve().relative_to(DOCS.resolve()).as_posix()
            todo += [path] if path not in reached else []
    assert reached == set(PAGES)
