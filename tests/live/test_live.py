"""Programs on the real kernel: what is generated, how it is read, and what is refused; the kernel itself on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from thp_env.conformance import read_recordings, replay, report
from thp_env.live import check, host, observe, others, settings
from thp_env.live.check import check_programs, least_disturbed, most_frequent
from thp_env.live.errors import LiveError
from thp_env.live.programs import LiveProgram, programs_of, random_programs
from thp_env.live.scenarios import FAMILIES, generate
from thp_env.live.workers import helper
from thp_env.traces import ProgramError, parse_program
from thp_env.traces.npz import save_program

RULES = Path(__file__).parents[1] / "data/rules.jsonl.xz"
RECORDED = list(read_recordings(Path(__file__).parents[1] / "data/live_random.jsonl.xz"))


def test_the_recordings_are_many_and_use_every_operation():
    assert len(RECORDED) >= 100
    words = {word for r in RECORDED for step in r["steps"] for word in step["op"].split()}
    assert set().union(*FAMILIES.values()) - {"limits", "hint", "set"} <= words
    assert sum(len(r["steps"]) for r in RECORDED) > 10_000


@pytest.mark.parametrize("record", RECORDED, ids=lambda r: r["name"])
def test_random_scenarios_of_the_executor_match(record):
    result = replay(record)
    assert result.ok, str(result.difference)
    assert result.matched == len(record["steps"])


def test_a_seed_is_a_scenario():
    one = generate(7)
    assert generate(7).lines == one.lines
    assert generate(8).lines != one.lines
    assert len(generate(7, steps=200).lines) >= 200


@pytest.mark.parametrize("family", FAMILIES)
def test_scenarios_can_be_read_and_run_anywhere_but_on_others(family):
    for seed in range(5):
        live = LiveProgram.parse("x", generate(seed, family=family).lines).check()
        assert len(live.texts) == len(live.program)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("thp 64 always", "would change every process"),
        ("set enabled always", "would change every process"),
        ("mmap a 2M\nsplit a 0 2M", "splits on demand"),
        ("fragment 9 0.5", "fragmentation of all memory"),
    ],
)
def test_what_must_not_run_on_a_host_is_refused(line, reason):
    line_of_refusal = len(line.splitlines())
    with pytest.raises(LiveError, match=rf"^x: line {line_of_refusal}: .*{reason}"):
        LiveProgram.parse("x", line.splitlines()).check()


def test_the_documented_language_is_read():
    """The example of the language's documentation, as far as a kernel can be stepped through it."""
    live = LiveProgram.parse("x", ["# a comment", "seed 7", "", "mmap heap 64M", "advise heap 0 64M hugepage  # all"])
    assert live.check().texts == ("mmap heap 64M", "advise heap 0 64M hugepage")
    assert live.places == ("x: line 4", "x: line 5")
    assert live.program.seed == 7


def test_a_program_file_is_read(tmp_path):
    program = parse_program("seed 7\nthp 64 madvise\nmmap a 2M\nwrite a 0 64K\nfork C\nin C write a 4K 4K\n")
    save_program(program, tmp_path / "a.npz")
    (tmp_path / "b.txt").write_text("mmap a 64K\n")
    first, second = programs_of([tmp_path])
    assert (first.name, second.name) == ("a", "b")
    again = LiveProgram.parse("a", first.texts)
    assert (again.program.ops == program.ops).all()
    save_program(parse_program("mmap a 2M\norders a 0 2M 0x11\n"), tmp_path / "a.npz")
    with pytest.raises(LiveError, match=r"a\.npz: operation 1: orders cannot be put to a host"):
        programs_of([tmp_path])


def test_a_malformed_program_is_refused_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("mmap a 64K\nfrobnicate")
    with pytest.raises(ProgramError, match=r"/a: line 2: .*frobnicate"):
        programs_of([tmp_path])
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(ProgramError, match=r"/a: not text, nor .npz: byte 0"):
        programs_of([tmp_path])
    (tmp_path / "a").write_text("# nothing\n")
    with pytest.raises(ProgramError, match="/a: there is no operation in it"):
        programs_of([tmp_path])
    with pytest.raises(ProgramError, match="/b: no such file"):
        programs_of([tmp_path / "b"])
    with pytest.raises(ProgramError, match=r"zero: not text, nor .npz: longer than 64 MiB"):
        programs_of([Path("/dev/zero")])
    with pytest.raises(LiveError, match="no program"):
        programs_of([])
    monkeypatch.setattr(host, "missing", lambda: ["root"])
    with pytest.raises(LiveError, match="it lacks root"):
        check_programs(random_programs(1, 0))


def test_recordings_that_cannot_be_written_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "missing", lambda: ["root"])
    with pytest.raises(OSError, match="there is no folder"):
        check_programs(random_programs(1, 0), tmp_path / "gone" / "a.jsonl")


def test_what_is_recorded_is_kept_when_it_is_stopped(tmp_path, monkeypatch):
    recorded = iter(RECORDED[:2])

    def stopped(*_, **__):
        if (recording := next(recorded, None)) is None:
            raise KeyboardInterrupt
        return recording, replay(recording)

    monkeypatch.setattr(check, "check", stopped)
    monkeypatch.setattr(check, "prepared", nullcontext)
    monkeypatch.setattr(check, "Kernel", lambda: SimpleNamespace(close=lambda: None))
    with pytest.raises(KeyboardInterrupt):
        check_programs(random_programs(3, 0), tmp_path / "a.jsonl")
    assert list(read_recordings(tmp_path / "a.jsonl")) == RECORDED[:2]


def test_what_most_runs_agree_on_counts():
    quiet, disturbed = ({"vm": {"thp_fault_alloc": n, "thp_zero_page_alloc": n}} for n in (0, 1))
    assert most_frequent((disturbed, quiet, quiet)) == (quiet, 2)
    assert most_frequent((quiet, {"vm": {"thp_fault_alloc": 0, "thp_zero_page_alloc": 9}}))[1] == 2


def test_what_others_did_at_the_same_time_does_not_count():
    def step(fault, gauge, mapped=4):
        return {"err": 0, "mthp": {"128": {"anon_fault_alloc": fault, "nr_anon": gauge}}, "vm": {}, "map": [mapped]}

    quiet = {**step(0, 0), "mthp": {"128": {"nr_anon": 1}}}
    assert least_disturbed((step(2, 1), step(1, 3), quiet)) == quiet
    assert least_disturbed((step(1, 1), step(1, 1))) == step(1, 1)
    assert least_disturbed((step(0, 1, 8), step(1, 1), step(1, 1))) == step(1, 1)  # memory went another way


def _huge_pages_of_others(monkeypatch, said):
    """A 64K fault, of which the host's counter shows one more, whoever made it."""
    recorded = next(r for r in read_recordings(RULES) if r["name"] == "a03_single_64k")
    live = LiveProgram.parse("x", [step["op"] for step in recorded["steps"]])
    steps = [dict(step) for step in recorded["steps"]]
    steps[-1] = {**steps[-1], "mthp": {"64": {"anon_fault_alloc": 2, "nr_anon": 1}}}
    runs = []
    monkeypatch.setattr(check, "run_once", lambda *_: runs.append(steps) or steps)
    monkeypatch.setattr(check, "others", lambda *_: said)
    _, result = check.check(live, SimpleNamespace(cgroup=None), None)
    return len(runs), result


def test_a_counter_that_others_may_have_moved_is_no_failure(monkeypatch):
    runs, result = _huge_pages_of_others(monkeypatch, "huge pages of python3 (pid 1, 24 MiB)")
    assert runs == check.MAX_RUNS
    assert not result.ok
    assert not result.failed
    text = report([result])
    assert text.startswith("UNSURE")
    assert "python3 (pid 1, 24 MiB)" in text
    assert text.endswith("unsure 1")


def test_a_counter_that_nobody_else_moved_is_a_failure(monkeypatch):
    runs, result = _huge_pages_of_others(monkeypatch, "")
    assert runs == check.VOTES
    assert result.failed
    assert report([result]).startswith("FAIL")


def test_what_others_cannot_have_done_is_a_failure_whoever_runs():
    assert all(map(others.explainable, ("vmstat thp_fault_alloc", "hugepages-64kB nr_anon")))
    assert not any(map(others.explainable, ("errno", "P.a page 0")))


def test_pages_become_runs():
    rows = np.zeros(10, observe.ROW)
    rows[1:5] = [("F", 2, 2, 1, 64 + i, 64) for i in range(4)]
    rows[5:7] = [("F", 0, 2, 1, 68 + i, 68 + i) for i in range(2)]
    rows[7:9] = [("S", 0, 0, 0, 512 + i, 0) for i in range(2)]
    rows[9] = ("G", 0, 0, 0, 0, 0)
    ids = {}
    assert list(observe._runs(rows, ids)) == [
        [1, 4, "F", 2, 0, 0, "x", 1], [5, 1, "F", 0, 0, 1, "x", 1], [6, 1, "F", 0, 0, 2, "x", 1], [7, 2, "S", 512],
        [9, 1, "G"],
    ]  # fmt: skip


def _settings():
    return {name: (settings.THP / name).read_text() for name in host.SETTINGS}


needs_host = pytest.mark.skipif(bool(host.missing()), reason="lacks " + ", ".join(host.missing()))


@pytest.mark.full
@needs_host
def test_the_host_does_as_the_simulator():
    before = _settings()
    results = check_programs(random_programs(5, 900))
    assert [str(r.difference) for r in results if not r.ok] == []
    assert _settings() == before


@pytest.mark.full
@needs_host
@pytest.mark.parametrize(
    "then",
    [
        ["in app cgroup 2", "limit 4M group=2", "swappiness 100 group=2", "reclaim group=2"],
        ["in app fork other", "in other cgroup 2", "in other write a 0 64K", "limit 4M group=2", "exit other"],
        ["in app limit 16M", "in app swap 64M", "exit app", "fork other", "in other write a 0 64K"],
    ],
)
def test_what_a_killed_process_would_have_done_is_not_done(then):
    """Groups are not made, children are not born, settings are not changed."""
    killed = ["mmap a 16M", "fork app", "in app cgroup 1", "limit 4M group=1", "in app write a 0 12M"]
    (result,) = check_programs([LiveProgram.parse("x", [*killed, *then])])
    assert result.ok, str(result.difference)


@pytest.mark.full
@needs_host
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_settings_are_put_back_after_any_signal(number):
    before = _settings()
    code = (
        "from thp_env.live.check import check_programs; from thp_env.live.programs import random_programs; "
        "check_programs(random_programs(50, 0), progress=True)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env={**os.environ})
    assert run.stderr.read(1) == b"\r"
    run.send_signal(number)
    run.communicate()
    if number == signal.SIGKILL:
        with pytest.raises(LiveError, match="--restore"):
            check_programs(random_programs(1, 0))
        assert settings.restore()
    assert _settings() == before
    assert not settings.journal().exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_helper_was_built():
    assert os.access(helper(), os.X_OK)
