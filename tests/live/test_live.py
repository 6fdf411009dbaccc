"""Programs on the real kernel: what is generated, how it is read, and what is refused; the kernel itself on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thp_env.conformance import read_recordings, replay
from thp_env.live import host, observe
from thp_env.live.check import _most_frequent, _undisturbed, check_programs, programs_of, random_programs
from thp_env.live.record import program_of, refuse
from thp_env.live.scenarios import FAMILIES, generate
from thp_env.live.workers import LiveError, helper
from thp_env.traces import ProgramError

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
        program, texts = program_of("x", generate(seed, family=family).lines)
        refuse(program)
        assert len(texts) == len(program)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("thp 64 always", "would change every process"),
        ("set enabled always", "would change every process"),
        ("mmap a 2M at=auto", "only anonymous mappings"),
        ("mmap a 2M file=1", "only anonymous mappings"),
        ("compute 1ms\nslice P", "slice has no counterpart"),
    ],
)
def test_what_must_not_run_on_a_host_is_refused(line, reason):
    with pytest.raises(LiveError, match=reason):
        refuse(program_of("x", line.splitlines())[0])


def test_a_malformed_program_is_refused_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("frobnicate")
    with pytest.raises(ProgramError, match="frobnicate"):
        check_programs(programs_of([tmp_path]))
    with pytest.raises(LiveError, match="no program"):
        programs_of([])
    monkeypatch.setattr(host, "missing", lambda: ["root"])
    with pytest.raises(LiveError, match="it lacks root"):
        check_programs(random_programs(1, 0))


def test_what_most_runs_agree_on_counts():
    quiet, disturbed = ({"vm": {"thp_fault_alloc": n, "thp_zero_page_alloc": n}} for n in (0, 1))
    assert _most_frequent((disturbed, quiet, quiet)) == (quiet, 2)
    assert _most_frequent((quiet, {"vm": {"thp_fault_alloc": 0, "thp_zero_page_alloc": 9}}))[1] == 2


def test_what_others_did_at_the_same_time_does_not_count():
    def step(fault, gauge, mapped=4):
        return {"err": 0, "mthp": {"128": {"anon_fault_alloc": fault, "nr_anon": gauge}}, "vm": {}, "map": [mapped]}

    quiet = {**step(0, 0), "mthp": {"128": {"nr_anon": 1}}}
    assert _undisturbed((step(2, 1), step(1, 3), quiet)) == quiet
    assert _undisturbed((step(1, 1), step(1, 1))) == step(1, 1)
    assert _undisturbed((step(0, 1, 8), step(1, 1), step(1, 1))) == step(1, 1)  # memory went another way


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
    return {name: (host.THP / name).read_text() for name in host.SETTINGS}


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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_settings_are_put_back_after_any_signal(number):
    before = _settings()
    code = "from thp_env.live.check import *; check_programs(random_programs(50, 0), progress=True)"
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env={**os.environ})
    assert run.stderr.read(1) == b"\r"
    run.send_signal(number)
    run.communicate()
    if number == signal.SIGKILL:
        with pytest.raises(LiveError, match="--restore"):
            check_programs(random_programs(1, 0))
        assert host.restore()
    assert _settings() == before
    assert not host.SNAPSHOT.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_helper_was_built():
    assert os.access(helper(), os.X_OK)
