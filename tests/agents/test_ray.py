"""Evaluation on a Ray cluster: the same results as here, also when a node is lost on the way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.episodes import small_program
from thp_agents.cli import main
from thp_agents.evaluation.parallel import map_jobs
from thp_agents.evaluation.run import Job, entry, run_job
from thp_agents.evaluation.suites import Case, content

from thp_env.traces import save_program

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'thp-env[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402 -- there is no Ray without the line above

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes of one CPU each; this process belongs to the first."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    save_program(small_program(), tmp_path / "small.npz")
    return [Case(str(tmp_path / "small.npz"), "small", seed) for seed in range(6)]


def figures(done: Iterator[tuple[Job, Any]]) -> dict[Job, tuple]:
    return {job: (run.policy, run.metrics, run.decisions) for job, run in done}


def test_what_a_lost_node_was_doing_is_done_again(cluster: Cluster, cases: list[Case], tmp_path: Path) -> None:
    """On the second node no task ever ends: without being repeated elsewhere, its tasks would have no result.

    The first waits until the second has one.
    """
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    started = tmp_path / "started"
    started.mkdir()
    jobs, doomed = [Job(entry("64K"), case, content(case)) for case in cases], second.node_id

    def work(job: Job) -> Any:
        node = ray.get_runtime_context().get_node_id()
        (started / f"{job.case.seed} {node} {os.getpid()}").touch()
        while node == doomed or not list(started.glob(f"* {doomed} *")):
            time.sleep(0.1)
        return run_job(0, 0, job)

    def lose() -> None:
        while not list(started.glob(f"* {doomed} *")):
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)

    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    found = figures(map_jobs(work, jobs, ray=cluster.address))
    loser.join(60)
    assert found == figures(map_jobs(partial(run_job, 0, 0), jobs))
    starts = [path.name.split()[:2] for path in started.iterdir()]
    lost = {seed for seed, node in starts if node == doomed}
    assert lost, "the second node had work"
    assert lost <= {seed for seed, node in starts if node != doomed}, "which was begun again on the first"


def test_the_command_prints_and_writes_the_same(
    cluster: Cluster, cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--policies", "never", "64K", "mthp_autopilot", "--workloads", cases[0].workload, "--quiet",
             "--seeds", "0", "1"]  # fmt: skip
    assert main([*words, "--processes", "1", "--csv", str(tmp_path / "here.csv")]) == 0
    here = capsys.readouterr().out
    assert main([*words, "--ray", cluster.address, "--csv", str(tmp_path / "there.csv")]) == 0
    assert capsys.readouterr().out == here
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
