"""Whole workloads on the real kernel beside the simulator, and two recordings side by side."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from thp_agents.cli import main

from thp_env.live import host, settings, whole
from thp_env.live.errors import LiveError
from thp_env.live.programs import LiveProgram
from thp_env.live.run_settings import RunSettings
from thp_env.live.whole import compare_files, draw_programs, report, run_workloads, sums
from thp_env.machine import Machine, layout
from thp_env.recording_file import read_recordings, write_recordings
from thp_env.traces import parse_program
from thp_env.workload import workloads

needs_host = pytest.mark.skipif(bool(host.missing()), reason="lacks " + ", ".join(host.missing()))
SHIPPED = sorted(workloads())
SWAPPING = "swap 8M\nmmap a 4M at=auto\nwrite a 0 4M\nadvise a 0 4M pageout\ncompute 20s\nread a 0 4M\n"


def test_settings_are_read_from_words():
    parsed = RunSettings.parse(["16K+64K", "2M", "khugepaged/max_ptes_none=0"])
    assert sorted(parsed.orders) == [2, 4, 9]
    assert parsed.of_host() == {
        "hugepages-16kB/enabled": "madvise", "hugepages-64kB/enabled": "madvise", "hugepages-2048kB/enabled": "madvise",
        "khugepaged/max_ptes_none": "0", "defrag": "never",
    }  # fmt: skip
    assert str(parsed) == "16K+64K+2M khugepaged/max_ptes_none=0"
    assert RunSettings.parse(["64K", "madvise"]).of_host()["defrag"] == "madvise"
    assert not RunSettings.parse(["never"]).advised


@pytest.mark.parametrize(
    ("word", "reason"),
    [("65K", "unknown setting '65K'.*64K"), ("defrag=x", "defrag takes never, madvise"),
     ("khugepaged/max_ptes_none=512", "takes 0 to 511"), ("enabled=always", "would change every process"),
     ("swap=1", "unknown setting 'swap'")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(word, reason):
    with pytest.raises(LiveError, match=reason):
        RunSettings.parse([word])


def test_a_machine_says_which_accesses_come_next():
    lines = ("seed 7", "mmap a 64K", "write a 4K 12K", "access a 0 64K uniform count=100 write=0.5", "compute 1")
    program = parse_program("\n".join(lines))
    machine = Machine(program)
    assert len(machine.upcoming_accesses()) == 0
    machine.run(ops=1)
    start = machine.region("a")[0]
    assert machine.upcoming_accesses().tolist() == [start + 4096 * page + 1 for page in (1, 2, 3)]
    machine.run(ops=1)
    accesses = machine.upcoming_accesses()
    assert len(accesses) == 100
    assert machine.upcoming_accesses(90).tolist() == accesses[90:].tolist()
    touched = np.unique(accesses & ~np.uint64(1))
    machine.run(ops=1)
    pages = machine.pagemap(machine.process("P")[0], start, 64 << 10)
    young = start + 4096 * np.flatnonzero(pages["kind"])
    assert set(touched.tolist()) | {start + 4096 * page for page in (1, 2, 3)} == set(young.tolist())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_workload_can_be_put_to_a_host(name):
    [live] = draw_programs([name], "tiny", 0, [])
    assert len(live.texts) == len(live.program)
    assert live.settings.orders == frozenset(layout.ORDERS)
    assert set(live.left_out) <= {"pollute", "fragment"}
    assert not {"pollute", "fragment"} & {layout.OPS[op] for op in live.program.ops["op"]}


def test_a_workload_that_sets_sizes_keeps_its_own():
    program = parse_program("thp 64 madvise\nmmap a 2M\n")
    assert not LiveProgram.of_workload("a", program, RunSettings()).settings.orders
    with pytest.raises(LiveError, match="a: operation 0: `always` would change every process"):
        LiveProgram.of_workload("a", parse_program("thp 64 always\n"), RunSettings())


def _step(number, **changes):
    return {"i": number, "op": f"write a {number}p 4096 4096", "err": 0, "minflt": 1, "majflt": 0, "mthp": {}, "vm": {},
            **changes}  # fmt: skip


def _recording(*steps, **changes):
    about = {"name": "a", "seed": 1, "settings": "64K", "kernel": "6.18", "arch": "x86_64"}
    return {**about, "steps": list(steps), **changes}


def test_two_kernels_are_compared_by_operation(tmp_path, capsys):
    one = _recording(_step(0), _step(1), _step(2, faults=[[1, 0], [3, 0]]))
    other = copy.deepcopy(one)
    other["kernel"] = "6.19"
    other["steps"][1]["minflt"] = 16
    other["steps"][2] = _step(2, minflt=2, faults=[[2, 0], [2, 0]])
    paths = [tmp_path / "one.jsonl", tmp_path / "other.jsonl.xz"]
    for path, recording in zip(paths, (one, other), strict=True):
        write_recordings(path, [recording])
        assert json.loads(json.dumps(list(read_recordings(path)))) == [recording]
    [compared] = compare_files(*paths)
    assert [(d.step, d.what, d.expected, d.got) for d in compared.differences] == [(1, "minor faults", 1, 16)]
    assert [d.step for d in compared.spread] == [2]
    assert main(["live", "--compare", *map(str, paths)]) == 1
    said = capsys.readouterr().out
    assert "FAIL a (64K): 3 operations; faults: Linux 6.18 (64K) 3 (3 to 5 in 2 runs), Linux 6.19 (64K) 19" in said
    assert "step 1: write a 1p" in said
    assert main(["live", "--compare", str(paths[0]), str(paths[0])]) == 0
    other["seed"] = 2
    write_recordings(paths[1], [other])
    with pytest.raises(LiveError, match="different programs"):
        compare_files(*paths)
    write_recordings(paths[1], [{**other, "name": "b"}])
    with pytest.raises(LiveError, match="no program in common: a; b"):
        compare_files(*paths)


def test_after_a_limit_faults_may_lie_in_the_spread_of_the_kernels_runs():
    limit = {**_step(1, minflt=0), "op": "in P limit 4096"}
    far = [[100, 0], [300, 0]]
    steps = [_step(0), limit, _step(2), _step(3, minflt=100, faults=far), _step(4, minflt=100, faults=far)]
    recording = _recording(*steps, left_out={})
    found = [whole.Difference(i, "write", "minor faults", 1, 2) for i in (0, 2, 3, 4)]
    simulated = [_step(0, minflt=2), limit, _step(2, minflt=60), _step(3, minflt=350), _step(4, minflt=900)]
    compared = whole._comparison(recording, simulated, found)
    assert [(d.step, d.op) for d in compared.differences] == [(0, "write"), (4, "write"), (4, whole.IN_SUM)]
    assert [d.step for d in compared.spread] == [2, 3]
    assert compared.failed
    many = [{**step, "minflt": 360 if step["i"] > 2 else 1} for step in simulated]
    assert [d.op for d in whole._comparison(recording, many, found[2:3]).differences] == [whole.IN_SUM]
    found = [whole.Difference(2, "write", "errno", 0, 12)]
    assert whole._comparison(recording, simulated, found).differences == found


def test_counters_that_others_may_have_moved_are_unsure():
    found = [whole.Difference(0, "write", "hugepages-64kB nr_anon", 1, 2)]
    compared = whole._comparison(_recording(_step(0), left_out={}), [_step(0)], found)
    assert compared.failed
    compared.others = "huge pages of python3"
    assert not compared.failed
    assert report([compared]).startswith("UNSURE")


def test_sums_are_by_size():
    steps = [_step(i, mthp={"64": {"anon_fault_alloc": 2 - i, "split": i}}) for i in (0, 1)]
    assert sums(steps) == {
        "minor faults": 2, "major faults": 0, "folios given by faults, 64K": 3, "folios split, 64K": 1,
    }  # fmt: skip


def test_bad_input_is_one_line(capsys, monkeypatch, tmp_path):
    for words, reason in (
        (["live"], "nothing to run"),
        (["live", "no_such"], "no_such"),
        (["live", "gups", "--settings", "63K"], "unknown setting '63K'"),
        (["live", "--compare", str(tmp_path / "a"), str(tmp_path / "b")], "no such file"),
        (["live", "gups", "--out", str(tmp_path / "no/a.jsonl")], "there is no folder"),
    ):
        assert main(words) == 2
        said = capsys.readouterr()
        assert reason in said.err
        assert said.err.count("\n") == 1
    monkeypatch.setattr("thp_env.live.host.os.geteuid", lambda: 1000)
    assert main(["live", "gups", "--size", "tiny"]) == 2
    assert "it lacks root" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("thp_env.live.host.THP", tmp_path)
    assert main(["live", "gups", "--size", "tiny"]) == 2
    assert "it lacks" in (said := capsys.readouterr().err)
    assert "multi-size THP" in said or "Linux on x86-64" in said


@pytest.mark.full
@needs_host
@pytest.mark.parametrize("words", ["all", "64K+2M"])
def test_every_workload_faults_as_the_simulator(words):
    """Up to a limit, each fault of each operation; after one, within the runs of the kernel or 256 KiB."""
    before = {name: (settings.THP / name).read_text() for name in host.SETTINGS}
    differing, steps = [], 0
    for _, compared in run_workloads(draw_programs(SHIPPED, "tiny", 0, [words])):
        thrashes = compared.name == "hot_island"  # and differs in sum: docs/explanation/verification.md
        differing += [f"{compared.name}: {d}" for d in compared.differences if not (thrashes and d.op == whole.IN_SUM)]
        steps += len(compared.first)
    assert differing == []
    assert steps > 20_000
    assert {name: (settings.THP / name).read_text() for name in host.SETTINGS} == before


@pytest.mark.full
@needs_host
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing(number, tmp_path, capsys):
    """Settings, the swap device and the control group; and only one run at a time changes them."""
    names = [*host.SETTINGS, host.PAGE_CLUSTER]
    before = {name: (settings.THP / name).read_text() for name in names}
    swap = host.Path("/proc/swaps").read_text()
    (tmp_path / "swapping.txt").write_text(SWAPPING)
    words = ["-m", "thp_agents", "live", str(tmp_path / "swapping.txt")]
    run = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert settings.wait(lambda: host.Path("/proc/swaps").read_text() != swap, 60)
    assert main(["live", "gups", "--size", "tiny"]) == 2
    assert "another live run is under way" in capsys.readouterr().err
    assert main(["live", "--restore"]) == 2
    capsys.readouterr()
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        assert main(["live", "gups", "--size", "tiny"]) == 2
        assert "an earlier run was killed" in capsys.readouterr().err
        assert main(["live", "--restore"]) == 0
        assert capsys.readouterr().out == "settings put back\n"
    assert main(["live", "--restore"]) == 0
    assert capsys.readouterr().out.startswith("nothing to put back")
    assert {name: (settings.THP / name).read_text() for name in names} == before
    assert host.Path("/proc/swaps").read_text() == swap
    assert not (settings.MEMORY_CGROUPS / host.CGROUP).exists()
