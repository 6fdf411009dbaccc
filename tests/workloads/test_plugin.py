"""A package of a third party, really installed, offers a workload through its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-workloads"
version = "1.0"

[project.entry-points."thp_env.workloads"]
acme = "acme_workloads:catalogue"

[tool.setuptools]
py-modules = ["acme_workloads"]
"""

MODULE = """
from thp_env import Instance, MachineConfig, ProgramBuilder, Workload


def sample(rng):
    b = ProgramBuilder("acme", seed=int(rng.integers(1 << 62)))
    b.mmap("queue", 1 << 22, at="auto")
    b.touch("queue", 0, 1 << 22)
    b.access("queue", 0, 1 << 22, "zipf", 2000, ns=5, weight=100)
    return Instance(b.build(), MachineConfig(memory=256 << 20))


def catalogue():
    return [Workload("acme_queue", "generator", "queues", "train", "a queue of acme", sample)]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the package, without a network."""
    source, site = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "acme_workloads.py").write_text(MODULE)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, capture_output=True)
    return site


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", "import sys; from thp_agents.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_it_is_listed(site: Path) -> None:
    listed = {w["name"]: w for w in json.loads(run(site, "workloads", "--json").stdout)}
    assert listed["acme_queue"] == {
        "name": "acme_queue", "kind": "generator", "family": "queues", "split": "train",
        "description": "a queue of acme",
    }  # fmt: skip
    assert "gups" in listed, "beside the package's own"


def test_it_runs(site: Path) -> None:
    done = run(site, "evaluate", "--policies", "never", "64K", "--workloads", "acme_queue", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "64K" in done.stdout


def test_without_it_nothing_is_left(site: Path) -> None:
    done = run(site.parent, "evaluate", "--workloads", "acme_queue", "--quiet")
    assert done.returncode == 2
    assert "unknown workload 'acme_queue'" in done.stderr
    assert done.stderr.count("\n") == 1
