"""The house: imports point down only, files have one subject, and the core knows no scenario."""

from __future__ import annotations

import ast
import fnmatch
import json
import lzma
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
CODE = [
    path
    for folder in ("thp_env", "agents", "workloads", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".cpp", ".hpp")
]
RECORDED = ROOT / "workloads/thp_workloads/recording/recipes/inputs"
"""Programs that are recorded: they run on a Python of their own."""
CORE = [p for p in CODE if (ROOT / "thp_env" / "machine") in p.parents]

ABOVE = ("thp_env.envs", "thp_env.conformance", "thp_env.live", "thp_env.workload", "gymnasium")
# Layer: what it must not import, whether it runs or is for types.
FORBIDDEN = {
    "thp_env/machine": ("thp_env.traces", *ABOVE),
    "thp_env/traces": ABOVE,
    "thp_env": ("thp_agents", "thp_workloads", "torch", "stable_baselines3", "matplotlib", "msgspec"),
    "workloads": ("thp_agents", "torch", "stable_baselines3"),
}


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere: in functions and for types, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_point_down_only(layer):
    for path in (p for p in (ROOT / layer).rglob("*.py") if RECORDED not in p.parents):
        for name in imports(path):
            upward = [f for f in FORBIDDEN[layer] if name == f or name.startswith(f + ".")]
            assert not upward, f"{path.relative_to(ROOT)} imports {name}"


AGENTS = ROOT / "agents" / "thp_agents"
LEARNED_POLICIES = ("arguments", "config", "hyperparameters", "networks", "policy_file", "sb3_model")
LAYERS = (
    ("policy", "view", "records", "files", "refusals", "corpus", "durations"),
    ("heuristics",),
    ("plug_ins",),
    ("learned", *(f"learned.{name}" for name in LEARNED_POLICIES)),  # what runs a trained policy
    ("catalogue",),
    ("evaluation",),
    ("learned.*", "sb3", "time_discount"),  # what trains one
    ("profile", "profile_report", "probe", "dataset", "advice", "corpus_folios"),
    ("*_command",),
    ("parser", "cli", "__main__"),
)
"""Of thp_agents, from below: modules and packages; the longest name that fits a module says where it stands."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(AGENTS).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def layer_of(module: str) -> int:
    fitting = [
        (len(pattern), i)
        for i, layer in enumerate(LAYERS)
        for pattern in layer
        if fnmatch.fnmatch(module, pattern) or ((pattern in ("heuristics", "evaluation", "advice"))
        and module.startswith(f"{pattern}."))
    ]  # fmt: skip
    return max(fitting)[1]


def test_imports_point_down_inside_agents_too():
    modules = {module_of(path): path for path in AGENTS.rglob("*.py")}
    edges = {
        module: {
            max((m for m in modules if f"thp_agents.{m}" == name or name.startswith(f"thp_agents.{m}.")), key=len)
            for name in imports(path)
            if name.startswith("thp_agents.")
        }
        for module, path in modules.items()
    }  # fmt: skip
    for module, below in edges.items():
        upward = [other for other in below if other and layer_of(other) > layer_of(module)]
        assert not upward, f"{module} imports {upward}"
    for module in modules:
        reached, waiting = set(), set(edges[module])
        while waiting:
            reached |= waiting
            waiting = set().union(*(edges[m] for m in waiting)) - reached
        assert module not in reached, f"{module} imports itself in the end"


@pytest.mark.parametrize("path", [p for p in CORE if p.suffix != ".py"], ids=lambda p: p.name)
def test_the_core_knows_nothing_of_python(path):
    includes = re.findall(r"#include [<\"](.+?)[>\"]", path.read_text())
    if not path.name.startswith("bindings"):
        assert not [i for i in includes if "nanobind" in i or "Python" in i]


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_has_one_subject(path):
    """Where one outgrows about 400 lines, it has two."""
    assert len(path.read_text().splitlines()) < 400


def test_no_scenario_is_named_in_the_core():
    names = []
    for file in ("rules", "random"):
        with lzma.open(DATA / f"{file}.jsonl.xz", "rt") as lines:
            names += [json.loads(line)["name"] for line in lines]
    for path in CODE:
        if path.is_relative_to(ROOT / "thp_env"):
            text = path.read_text()
            assert not [name for name in names if name in text], path


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_thp_env_is_light():
    """No framework, nothing that draws, and not even the machine until it is used."""
    code = "import sys, thp_env; print(*sys.modules)"
    modules = set(run_python(code).split())
    assert "thp_env" in modules
    heavy = {"torch", "matplotlib", "stable_baselines3", "pandas", "scipy", "thp_agents", "thp_workloads"}
    assert not modules & heavy


def test_importing_thp_env_adds_little_to_its_dependencies():
    code = (
        "import time, numpy, gymnasium; start = time.process_time(); import thp_env; print(time.process_time() - start)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 0.15


def test_every_public_name_can_be_imported():
    import thp_env

    for name in thp_env.__all__:
        assert getattr(thp_env, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        thp_env.nonsense  # noqa: B018
