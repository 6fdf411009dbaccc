"""Another package's environment and policy: installed, they are there, and nothing here is edited for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = '''
"""An environment whose windows are 1 ms, and a policy that takes 64K in it."""

from gymnasium.envs.registration import register
from thp_agents.policy import Policy
from thp_env.envs.actions import ACTIONS
from thp_env.envs.vma_order import VmaOrderEnv, VmaOrderTask, VmaOrderVectorEnv


class ShortTask(VmaOrderTask):
    def __init__(self, *arguments, window_ms=1.0, **named):
        super().__init__(*arguments, window_ms=window_ms, **named)

    def no_op(self, i):
        return ACTIONS.index("16K")


class ShortEnv(VmaOrderEnv):
    """Ask every millisecond."""

    task_class = ShortTask


class ShortVectorEnv(VmaOrderVectorEnv):
    """Many of them."""

    task_class = ShortTask


class Mine(Policy):
    name = "mine"
    source = "this test"
    environment = "friend/Short-v0"

    def decide(self, observation, view):
        assert view.no_op == ACTIONS.index("16K"), "what the environment says"
        return ACTIONS.index("64K")
'''
ENTRY_POINTS = """[thp_env.environments]
friend/Short-v0 = friend:ShortEnv

[thp_agents.policies]
mine = friend:Mine
"""
PROGRAM = """
import gymnasium
import thp_env
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.learned.policy_file import signature
from thp_agents.catalogue import find_policy
from thp_agents.plug_ins import policies
from thp_env.registration import check_arguments

assert "friend/Short-v0" in thp_env.ENVIRONMENTS and "mine" in policies()
env = gymnasium.make("friend/Short-v0", workload="hot_island")
env.reset(seed=0)
envs = gymnasium.make_vec("friend/Short-v0", num_envs=2, workload="hot_island")
envs.reset(seed=0)
check_arguments("friend/Short-v0", {"window_ms": 2.0})
assert "64K" in signature("friend/Short-v0", {})["actions"]
run = evaluate_one(find_policy("mine"), "hot_island", 0)
assert (run.policy, run.reason) == ("mine", "done") and run.decisions > 0
"""


def run(folder: Path, entry_points: str, program: str) -> subprocess.CompletedProcess:
    info = folder / "friend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: friend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    (folder / "friend.py").write_text(PACKAGE)
    (folder / "program.py").write_text(program)
    path = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return subprocess.run(
        [sys.executable, str(folder / "program.py")], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_an_installed_environment_and_policy_are_used_like_our_own(tmp_path: Path) -> None:
    done = run(tmp_path, ENTRY_POINTS, PROGRAM)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("entry_points", "program", "said"),
    [
        ("[thp_env.environments]\nthp_env/VmaOrder-v0 = friend:ShortEnv\n", "import thp_env",
         "two environments are called thp_env/VmaOrder-v0: thp_env.envs.vma_order:VmaOrderEnv and friend:ShortEnv"),
        ("[thp_agents.policies]\ningens = friend:Mine\n", "from thp_agents.plug_ins import policies; policies()",
         "two policies are called ingens: in thp_agents.heuristics and in friend:Mine"),
    ],
)  # fmt: skip
def test_a_name_twice_is_refused_with_both_places(tmp_path: Path, entry_points: str, program: str, said: str) -> None:
    done = run(tmp_path, entry_points, program)
    assert done.returncode != 0
    assert said in done.stderr
