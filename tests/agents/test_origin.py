"""A digest of a policy's code changes when what decides changes, and only then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.origin import code_digest, policy_code
from thp_agents.evaluation.run import entry
from thp_agents.evaluation.what_ifs import follower
from thp_agents.plug_ins import policies

import thp_env

POLICY = """
from thp_agents.policy import Policy
class P(Policy):
    name, source, default_sizes = "mine", "me", {default_sizes}
    def decide(self, observation, view):
        return view.no_op
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write modules to the current folder, and return the digest of policy `my_policy:P` as a new process has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("my_policy", "my_helper", "my_package")]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def written(spec: str = "my_policy:P", **files: str) -> str:
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        forget()
        return entry(spec).code

    yield written
    forget()


def test_an_edit_of_the_policy_counts(write: Callable[..., str]) -> None:
    first = write(my_policy=POLICY.format(default_sizes="'4K'"))
    assert write(my_policy=POLICY.format(default_sizes="'4K'")) == first
    assert write(my_policy=POLICY.format(default_sizes="'2M'")) != first


@pytest.mark.parametrize("how", ["import my_helper as h", "from my_helper import S", "from my_helper import *"])
def test_an_edit_of_what_it_imports_counts(write: Callable[..., str], how: str) -> None:
    policy = how + POLICY.format(default_sizes="h.S" if how.startswith("import") else "S")
    first = write(my_policy=policy, my_helper="S = '4K'\n")
    assert write(my_helper="S = '2M'\n") != first


def test_an_edit_of_what_a_function_imports_counts(write: Callable[..., str]) -> None:
    policy = POLICY.format(default_sizes="'4K'") + "    def reset(self, view):\n        import my_helper\n"
    first = write(my_policy=policy, my_helper="S = '4K'\n")
    assert write(my_helper="S = '2M'\n") != first


def test_an_edit_within_a_package_counts(write: Callable[..., str]) -> None:
    policy = "from .sizes import S" + POLICY.format(default_sizes="S")
    names = {"my_package/__init__": "", "my_package/sizes": "S = '4K'", "my_package/policy": policy}
    first = write("my_package.policy:P", **names)
    assert write("my_package.policy:P", **{"my_package/sizes": "S = '2M'"}) != first
    second = write("my_package.policy:P")
    assert write("my_package.policy:P", **{"my_package/__init__": "print"}) != second


def test_the_code_of_one_policy_is_not_that_of_another() -> None:
    digests = {name: policy_code(find_policy(name), name) for name in policies()}
    assert digests["utilisation"] != digests["ingens"]
    assert digests["never"] == digests["64K"], "one class, of different names"
    assert policy_code(find_policy("ingens+shrinker"), "ingens+shrinker") not in digests.values()


def test_a_policy_on_top_of_another_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = follower("ski_rental", {"default_sizes": "all", "idle": True})
    on_top = policy_code(policy, "it.npz")
    two = follower({"keep": "ski_rental", "collapse": "ingens"}, policy.arguments)
    assert policy_code(two, "it.npz") != on_top
    policy.rules.clear()
    assert policy_code(policy, "it.npz") != on_top


def test_a_new_version_changes_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(["thp_agents.evaluation.episode", "thp_agents.evaluation.oracle"])
    sources = Path(thp_env.__file__).parent
    read = Path.read_bytes

    def newer(path: Path) -> bytes:
        assert path != sources / "__init__.py", "which holds the version"
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", newer)
    assert code_digest(["thp_agents.evaluation.episode", "thp_agents.evaluation.oracle"]) == before


@pytest.mark.parametrize("part", ["thp_agents/view.py", "thp_env/envs/observation.py", "thp_env/machine/prices.py"])
def test_what_runs_and_pays_every_policy_counts(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    before = policy_code(find_policy("64K"), "64K")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if str(path).endswith(part) else b""))
    assert policy_code(find_policy("64K"), "64K") != before
