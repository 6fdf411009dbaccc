"""Trajectories of integers are the same on every machine and with every build, as long as `BEHAVIOUR` stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import digests
from support.episodes import ENVIRONMENTS

import thp_env
from thp_env.machine.behaviour import BEHAVIOUR

RECORDED = json.loads(digests.FILE.read_text())
DIGESTS = RECORDED["digests"]
SCENARIOS = digests.scenarios()
ADVICE = "trajectories have changed: raise BEHAVIOUR, then run: python tests/support/digests.py"


@pytest.mark.parametrize("workload", digests.WORKLOADS)
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_behaviour_keeps_its_trajectories(env_id: str, workload: str) -> None:
    assert digests.digest(env_id, workload) == DIGESTS.get(env_id, {}).get(workload), ADVICE


@pytest.mark.parametrize("kind", sorted(SCENARIOS))
@pytest.mark.parametrize("name", digests.MACHINES)
def test_a_behaviour_keeps_what_machines_count(name: str, kind: str) -> None:
    digest = digests.machine_digest(SCENARIOS[kind], **digests.MACHINES[name])
    assert digest == DIGESTS.get(name, {}).get(kind), ADVICE


def test_the_digests_are_of_this_behaviour() -> None:
    assert RECORDED["behaviour"] == BEHAVIOUR == thp_env.BEHAVIOUR, ADVICE


def test_changed_digests_demand_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version of the package alone demands nothing."""
    file = tmp_path / "digests.json"
    monkeypatch.setattr(digests, "digests", lambda: {"env": {"small": "new"}, "another": {"small": "x"}})
    file.write_text(json.dumps({"behaviour": BEHAVIOUR, "digests": {"env": {"small": "old"}}}))
    with pytest.raises(ValueError, match=f"env on small changed: raise BEHAVIOUR to {BEHAVIOUR + 1} first"):
        digests.write(file)
    file.write_text(json.dumps({"behaviour": BEHAVIOUR, "digests": {"env": {"small": "new"}}}))
    digests.write(file)
    assert json.loads(file.read_text())["digests"]["another"] == {"small": "x"}
    file.write_text(json.dumps({"behaviour": BEHAVIOUR - 1, "digests": {"env": {"small": "old"}}}))
    digests.write(file)
    assert json.loads(file.read_text())["behaviour"] == BEHAVIOUR


@pytest.mark.parametrize("of", DIGESTS)
def test_trajectories_differ(of: str) -> None:
    assert len(set(DIGESTS[of].values())) == len(DIGESTS[of])
