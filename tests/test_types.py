"""What a type checker says of a program that uses the public API: each member has a type, and none is `Any`."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thp_env

PACKAGE = Path(thp_env.__file__).parent
CACHE = Path(__file__).parents[1] / ".mypy_cache" / "strict"
"""Beside that of `make lint`, whose options are others."""
OF_GYMNASIUM = {"ENVIRONMENTS", "VmaOrderEnv", "RecordTrajectory"}
"""Classes with gymnasium.Env's members, whose infos and options are `dict[str, Any]` there, and what finds them."""
GENERIC = {"Counters": "Counters[int]"}
SPECIAL = ("__getitem__", "__sub__", "__len__")
DOCUMENT = "dict[str, Any]"
"""What JSON holds: `Program.meta`, and what a trajectory was made with."""
OF_BATCHES = {"of_machine"}
"""Members of `Counters` that only those of a batch have."""


def members(thing: type) -> Iterator[str]:
    """Yield the members of a class that this package defines."""
    yield from getattr(thing, "__dataclass_fields__", {})
    for base in thing.__mro__:
        if base.__module__.startswith("thp_env"):
            yield from (name for name in vars(base) if name in SPECIAL or not name.startswith("_"))


def program() -> str:
    """Return a program that shows the type of each public name and of its members."""
    lines = ["import thp_env"]
    for name in thp_env.__all__:
        lines.append(f"reveal_type(thp_env.{name})")
        thing = getattr(thp_env, name)
        if inspect.isclass(thing) and name not in OF_GYMNASIUM:
            lines.append(f"def of_{name}(x: thp_env.{GENERIC.get(name, name)}) -> None:")
            shown = sorted(set(members(thing)) - OF_BATCHES)
            lines += [f"    reveal_type(x.{member})" for member in shown] or ["    pass"]
    return "\n".join(lines) + "\n"


def checked(source: str, folder: Path) -> list[str]:
    """Return what `mypy --strict` writes about a program."""
    file = folder / "program.py"
    file.write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir",
               str(CACHE), "--no-error-summary", str(file)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False).stdout.splitlines()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy belongs to the extra `lint`")
def test_the_public_api_has_types(tmp_path: Path) -> None:
    source = program()
    lines = source.splitlines()
    found: dict[str, str] = {}
    for line in checked(source, tmp_path):
        place = re.fullmatch(r"program\.py:(\d+): (note|error): (.*)", line)
        assert place, line
        if place[2] == "error":
            pytest.fail(f"{lines[int(place[1]) - 1].strip()}: {place[3]}")
        found[lines[int(place[1]) - 1].strip()] = place[3]
    shown = [line.strip() for line in lines if "reveal_type" in line]
    assert set(found) == set(shown)
    assert "int" in found["reveal_type(x.clock_ps)"]
    untyped = {name: text for name, text in found.items() if re.search(r"\bAny\b", text.replace(DOCUMENT, ""))}
    for name in OF_GYMNASIUM:
        untyped.pop(f"reveal_type(thp_env.{name})", None)
    assert not untyped


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy belongs to the extra `lint`")
def test_a_mistake_is_seen(tmp_path: Path) -> None:
    lines = checked("import thp_env\ndef f(m: thp_env.Machine) -> str:\n    return m.clock_ps\n", tmp_path)
    assert [line for line in lines if "error" in line and '"int"' in line]


def test_the_stub_of_the_core_is_what_nanobind_makes(tmp_path: Path) -> None:
    pytest.importorskip("nanobind")
    made = tmp_path / "_core.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "thp_env.machine._core"]
    subprocess.run([*command, "-p", str(PACKAGE / "machine/_core.pat"), "-o", str(made)], check=True)
    assert made.read_text() == (PACKAGE / "machine/_core.pyi").read_text(), "make stub writes it anew"
