"""The command thp-env: what it prints, and one clear line for bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from support.episodes import small_program
from thp_agents.cli import main

from thp_env.envs.trajectory import RecordTrajectory, Trajectory
from thp_env.traces import save_program

COMMAND = Path(sys.executable).with_name("thp-env")


def thp_env(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False, cwd=cwd, timeout=60)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder with a small recording beside it."""
    save_program(small_program(), tmp_path / "small.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD = {
    "probe of an unknown environment": (["probe", "--env", "CartPole-v1"], "CartPole-v1"),
    "probe of one family": (["probe", "--workloads", "small.npz"], "two or more"),
    "trajectory that is missing": (["replay", "gone.npz"], "gone.npz: no such file"),
    "trajectory that is a program": (["replay", "small.npz"], "small.npz: not a trajectory"),
    "unknown verb": (["evalute"], "evalute"),
    "no verb": ([], "verb"),
    "unknown option": (["policies", "--fast"], "--fast"),
    "unknown policy": (["evaluate", "--policies", "utilization", "--workloads", "small.npz"],
                       "did you mean 'utilisation'"),
    "policy like no other": (["evaluate", "--policies", "qqq", "--workloads", "small.npz"],
                             "unknown policy 'qqq'. There are never"),
    "workload like no other": (["evaluate", "--workloads", "qqq"], "unknown workload 'qqq'. There are"),
    "policy file that is missing": (["evaluate", "--policies", "gone.npz", "--workloads", "small.npz"], "gone.npz"),
    "policy file that is a program": (["evaluate", "--policies", "small.npz", "--workloads", "small.npz"], "small.npz"),
    "policy twice": (["evaluate", "--policies", "never", "never", "--workloads", "small.npz"], "never"),
    "unknown workload": (["evaluate", "--workloads", "hot_iland"], "did you mean 'hot_island'"),
    "workload file that is missing": (["evaluate", "--workloads", "gone.npz"], "gone.npz: no such file"),
    "seed that is no number": (["evaluate", "--seeds", "one"], "one"),
    "negative seed": (["evaluate", "--workloads", "small.npz", "--seeds", "-1"], "-1"),
    "report over a file": (["evaluate", "--workloads", "small.npz", "--report", "small.npz"], "cannot make small.npz"),
    "unknown suite": (["evaluate", "--suite", "tset"], "did you mean 'test'"),
    "chosen on anything but validation": (["evaluate", "--policies", "never", "64K", "--workloads", "small.npz",
                                           "--choose"], "cheating"),
    "probe of one family beside results": (["evaluate", "--policies", "never", "--workloads", "small.npz", "--probe"],
                                           "two or more"),
    "unknown agent": (["train", "--agent", "pppo"], "no agent 'pppo'"),
    "csv in no folder": (["evaluate", "--workloads", "small.npz", "--csv", "gone/r.csv"], "gone"),
    "train on an unknown workload": (["train", "--workloads", "hot_iland", "--steps", "8"], "did you mean"),
    "train for no step": (["train", "--workloads", "small.npz", "--steps", "0"], "at least 1"),
    "train for half a step": (["train", "--steps", "0.5"], "0.5"),
    "nothing to resume": (["train", "--workloads", "small.npz", "--steps", "8", "--resume"], "nothing to resume"),
    "policy over a folder": (["train", "--workloads", "small.npz", "--steps", "8", "--out", "."], "cannot write ."),
    "folder that is a file": (["train", "--workloads", "small.npz", "--folder", "small.npz"], "cannot write to"),
    "tune an unknown agent": (["tune", "--agent", "pppo"], "no agent 'pppo'"),
    "tune for too long": (["tune", "--seconds", "181", "--out", "s.json"], "at most 30 trials of 180 s"),
    "tune into no folder": (["tune", "--out", "gone/s.json"], "gone"),
    "distill nothing": (["distill", "gone.npz", "--no-score"], "gone.npz: no such file"),
    "distill a heuristic": (["distill", "64K", "--no-score"], "64K is a heuristic"),
    "distill to no leaf": (["distill", "gone.npz", "--leaves", "0"], "1 or more"),
    "distill and score on an unknown suite": (["distill", "gone.npz", "--suite", "tset"], "did you mean 'test'"),
    "recording that is missing": (["conformance", "gone.jsonl"], "gone.jsonl: no such file"),
    "recording that is none": (["conformance", "small.npz"], "small.npz"),
}  # fmt: skip


def one_line(code: int, out: str, err: str, expected: str) -> None:
    lines = err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, err
    assert lines[0].startswith("thp-env")
    assert expected in lines[0]
    assert "Traceback" not in err + out


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line(folder: Path, capfd: pytest.CaptureFixture[str], what: str) -> None:
    words, expected = BAD[what]
    before = sorted(folder.iterdir())
    try:
        code = main([*words, *(["--quiet"] if words[:1] in (["evaluate"], ["train"], ["distill"]) else [])])
    except SystemExit as stop:  # argparse
        code = stop.code
    one_line(code, *capfd.readouterr(), expected)
    made = {p.name for p in folder.rglob("*")} - {p.name for p in before}
    assert made <= {"runs", "maskable_ppo-0"}, "nothing half-written"


@pytest.mark.parametrize("what", ["unknown verb", "unknown policy", "csv in no folder"])
def test_the_installed_command_does_the_same(folder: Path, what: str) -> None:
    words, expected = BAD[what]
    done = thp_env(*words, cwd=folder)
    one_line(done.returncode, done.stdout, done.stderr, expected)


def test_evaluate_prints_a_table_and_writes_files(folder: Path) -> None:
    done = thp_env("evaluate", "--policies", "never", "64K", "--workloads", "small.npz", "--seeds", "0", "1",
                   "--report", "report", "--csv", "runs.csv", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "evaluating: 100%" in done.stderr, "a progress bar, on stderr"
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(("64K  ", "never  "))][:2]
    assert [line[0] for line in lines] == ["64K", "never"], "the best first"
    assert float(lines[1][1]) < float(lines[0][1]) == 0, "the best heuristic is what savings count from"
    assert "report: report/index.html" in done.stdout
    assert (folder / "report" / "index.html").read_text().startswith("<!doctype html>")
    written = sorted(p.name for p in (folder / "report").iterdir())
    assert written == ["index.html", "results.json", "savings.png", "small.npz.html"]
    assert len((folder / "runs.csv").read_text().splitlines()) == 7, "a header, and two runs of each and of the oracle"
    assert sorted(p.name for p in folder.iterdir()) == ["report", "runs.csv", "small.npz"]


def test_a_probe_stands_beside_the_results(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The line that is printed is in the report, too."""
    save_program(small_program(), folder / "other.npz")
    words = ["--policies", "never", "64K", "--workloads", "small.npz", "other.npz", "--report", "report", "--quiet"]
    assert main(["evaluate", *words, "--probe"]) == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if "a probe names" in line)
    assert line.startswith("thp_env/VmaOrder-v0: a probe names the family of ")
    assert "guessing 50% (other " in line
    assert line in (folder / "report" / "index.html").read_text()


def test_an_evaluation_goes_on_where_it_was(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--workloads", "small.npz", "--store", "runs.jsonl", "--processes", "1", "--quiet"]
    assert main([*words, "--policies", "never", "64K"]) == 0
    first = capfd.readouterr().out
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 3, "the oracle's, and one of each policy"
    (folder / "runs.jsonl").write_text(lines[0] + lines[1] + lines[2][:40])
    assert main([*words, "--policies", "never", "64K"]) == 0
    assert capfd.readouterr().out == first
    again = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    assert again == [*lines[:2], lines[2][:40] + "\n", lines[2]], "what was whole is kept, what was cut off is whole"


def test_a_policy_that_hangs_is_left_out(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "class Slow:\n name=source='slow'\n kind='heuristic'\n default_sizes='4K'\n arguments={}\n"
    code += " environment='thp_env/VmaOrder-v0'\n def reset(self, view): pass\n"
    (folder / "slow.py").write_text(code + " def decide(self, observation, view):\n  while True: pass\n")
    words = ["evaluate", "--workloads", "small.npz", "--limit", "1", "--processes", "1", "--quiet", "--policies"]
    assert main([*words, "never", "64K", "slow:Slow"]) == 0
    out, err = capfd.readouterr()
    assert "slow#0 on small.npz with seed 0: policy slow took more than 1 s" in err
    assert "64K" in out
    assert "slow" not in out


def test_quiet_is_quiet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--policies", "never", "64K", "--workloads", "small.npz", "--quiet"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("verb", ["policies", "workloads"])
def test_lists(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main([verb]) == 0
    text = capsys.readouterr().out
    assert main([verb, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(text.splitlines())
    assert all(row["name"] in line for row, line in zip(rows, text.splitlines(), strict=True))
    names = {row["name"] for row in rows}
    assert {"policies": {"never", "mthp_autopilot", "ppo#0"}, "workloads": {"hot_island", "alloc_purge"}}[verb] <= names


def test_conformance_of_a_recording_and_of_a_changed_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import lzma

    data = Path(__file__).parents[1] / "data" / "rules.jsonl.xz"
    with lzma.open(data, "rt") as file:
        record = json.loads(file.readline())
    (folder / "good.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["conformance", "good.jsonl"]) == 0
    n = len(record["steps"])
    assert capsys.readouterr().out.splitlines()[-1] == f"scenarios 1/1 steps {n}/{n} not-modelled 0"
    at = next(i for i, step in enumerate(record["steps"]) if step["minflt"])
    record["steps"][at]["minflt"] += 1
    (folder / "bad.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["conformance", "bad.jsonl"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"scenarios 0/1 steps {at}/{n} not-modelled 0"
    assert record["steps"][at]["op"] in "\n".join(lines)


@pytest.mark.parametrize(
    "verb", ["demo", "train", "tune", "evaluate", "distill", "record", "conformance", "workloads", "policies", "bench"]
)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"thp-env {verb}" in capsys.readouterr().out


def test_replay_says_same_or_names_the_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = RecordTrajectory(gymnasium.make("thp_env/VmaOrder-v0", workload="small.npz"), folder)
    env.reset(seed=1)
    env.step(0)
    env.close()
    assert main(["replay", "trajectory-0.npz"]) == 0
    assert capsys.readouterr().out.startswith("trajectory-0.npz: the same; thp_env/VmaOrder-v0 on small, 1 steps")
    good = Trajectory.load("trajectory-0.npz")
    dataclasses.replace(good, rewards=good.rewards - 1).save("other.npz")
    assert main(["replay", "trajectory-0.npz", "other.npz"]) == 1
    assert "other.npz: step 1: the reward is" in capsys.readouterr().out
