"""Trajectories of integers are the same on every machine and with every build, as long as a version lives."""

from __future__ import annotations

import json

import pytest
from support.digests import FILE, WORKLOADS, digest
from support.episodes import ENVIRONMENTS

DIGESTS = json.loads(FILE.read_text())


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_version_keeps_its_trajectories(env_id: str, workload: str) -> None:
    assert digest(env_id, workload) == DIGESTS.get(env_id, {}).get(workload), (
        f"trajectories of {env_id} have changed: if that version was released, register the next one; "
        "then run: python tests/support/digests.py"
    )


def test_trajectories_differ() -> None:
    found = [value for of in DIGESTS.values() for value in of.values()]
    assert len(set(found)) == len(found)
