"""Workers that die are named, their jobs done once more, then left out; and nobody outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.episodes import small_program
from support.jobs import Strange, Task, double, fail, leave, wait_in
from thp_agents.cli import main
from thp_agents.evaluation.parallel import Lost, map_jobs, without_lost

from thp_env.traces import save_program


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_whatever_dies_the_results_are_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    deaths = {2: 1, 5: 9, 6: 1}
    tasks = [Task(n, deaths.get(n, 0), str(tmp_path)) for n in range(8)]
    found = dict(map_jobs(double, tasks, 3, named=lambda task: f"number {task.number}"))
    assert {task.number: result for task, result in found.items() if task.number != 5} == {
        n: 2 * n for n in range(8) if n != 5
    }
    assert found[tasks[5]] == Lost("its worker was killed by SIGKILL, twice")
    assert dict(without_lost(iter(found.items()))) == {task: 2 * task.number for task in tasks if task.number != 5}
    begun = [int(path.name.split()[0]) for path in tmp_path.iterdir()]
    assert {n: begun.count(n) for n in range(8)} == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 2, 6: 2, 7: 1}, "no other's again"
    lines = capfd.readouterr().err.splitlines()
    once = [f"thp-env: a worker was killed by SIGKILL while it did number {n}, which is done once more" for n in deaths]
    twice = "thp-env: a worker was killed by SIGKILL again while it did number 5, which is left out"
    assert sorted(lines) == sorted([*once, twice])


def test_an_exit_is_a_death(capfd: pytest.CaptureFixture[str]) -> None:
    found = dict(map_jobs(leave, [3, 4], 2))
    assert found == {n: Lost(f"its worker was ended by exit code {n}, twice") for n in (3, 4)}
    assert capfd.readouterr().err.count("once more") == 2


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_program_that_cannot_be_run_to_its_end_is_named(
    tmp_path: Path, processes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("mmap a 8M\nwrite a 0 8M\ncompute 10000000s\n")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    words = ["--policies", "64K", "--workloads", *files, "--seeds", "0", "--quiet", "--processes", processes]
    assert main(["evaluate", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the search for the static oracle of " in line
    assert ".txt with seed 0: simulated time is over" in line


@pytest.mark.parametrize(("what", "kind"), [("value", ValueError), ("strange", RuntimeError), ("exit", SystemExit)])
def test_what_a_job_raises_is_raised_here(what: str, kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="3" if what == "exit" else "no luck"):
        list(map_jobs(fail, [what, what], 2))
    with pytest.raises(TypeError):
        Strange("a", 1, 2)  # type: ignore[call-arg]


PARENT = """
from support.jobs import wait_in
from thp_agents.evaluation.parallel import map_jobs
list(map_jobs(wait_in, [{folder!r} + "/a", {folder!r} + "/b"], 2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_whoever_started_them(tmp_path: Path, number: signal.Signals) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(folder=str(tmp_path))], env=environment,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until(lambda: len(list(tmp_path.glob("*/*"))) == 2)
        workers = [int(path.name) for path in tmp_path.glob("*/*")]
        assert not any(map(gone, workers))
        for pid in workers:
            os.kill(pid, signal.SIGINT)  # as a terminal sends it to all
        time.sleep(0.3)
        assert not any(map(gone, workers)), "they leave ctrl-C to who started them"
        parent.send_signal(number)
        parent.wait(5)
        until(lambda: all(map(gone, workers)), 5)
    finally:
        parent.kill()
        parent.wait()


def test_one_who_looks_no_further_leaves_no_worker(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    jobs = map_jobs(double, [Task(n, 0, str(tmp_path)) for n in range(100)], 2)
    next(jobs)
    workers = {int(path.name.split()[2]) for path in tmp_path.glob("* *")}
    assert workers
    jobs.close()
    assert all(map(gone, workers))
    assert wait_in.__module__ == "support.jobs"


def test_a_policy_that_kills_its_worker_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The others complete, in the same order as without it."""
    save_program(small_program(), tmp_path / "small.npz")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deadly.py").write_text(
        "import os\nfrom thp_agents.policy import Policy\nclass P(Policy):\n name = source = 'deadly'\n"
        " default_sizes = '4K'\n def decide(self, observation, view):\n  os._exit(7)\n"
    )
    words = ["evaluate", "--workloads", "small.npz", "--seeds", "0", "1", "--quiet", "--processes", "2", "--policies"]
    assert main([*words, "never", "deadly:P", "64K", "--csv", "with.csv"]) == 0
    told = capfd.readouterr()
    assert "a worker was ended by exit code 7 while it did deadly#0 on small.npz with seed 1, which is done" in told.err
    assert "left out: deadly#0 on small.npz with seed 0: its worker was ended by exit code 7, twice" in told.err
    assert main([*words, "never", "64K", "--csv", "without.csv"]) == 0
    assert capfd.readouterr().out == told.out
    assert (tmp_path / "with.csv").read_text() == (tmp_path / "without.csv").read_text()
