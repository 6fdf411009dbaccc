"""Recipes: how real programs are recorded, one file a program, in TOML.

| key | meaning |
| --- | --- |
| `description` | one line: what the program does to memory |
| `packages` | Debian packages that it needs |
| `license` | of what is run |
| `kind`, `family` | kind of memory behaviour; programs of one family are near relatives |
| `split` | train, validation or test; a family never stands on two sides |
| `size`, `small` | what `{size}` stands for: at full length (10 to 60 s of a native run), and for a quick look |
| `prepare` | commands that are run before, natively |
| `command` | what is recorded |
| `beside` | a command that is run natively at the same time, as the clients of a server are |
| `environment` | variables to add |

In commands `{inputs}` is the folder of scripts that make inputs (all of them seeded), `{python}` is Debian's Python.
They run in an empty folder, without a shell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from thp_env.traces.program import Program
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.record import record

FOLDER = Path(__file__).resolve().parent
INPUTS = FOLDER / "inputs"
PYTHON = "/usr/bin/python3"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Recipe:
    """A recipe; see the module."""

    name: str
    description: str
    packages: list[str]
    license: str
    kind: str
    family: str
    split: str
    command: list[str]
    size: int
    small: int
    prepare: list[list[str]] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def words(self, command: list[str], size: int) -> list[str]:
        """Fill in what braces stand for."""
        known = {"{inputs}": str(INPUTS), "{python}": PYTHON, "{size}": str(size)}
        filled = []
        for word in command:
            for brace, text in known.items():
                word = word.replace(brace, text)
            filled.append(word)
        return filled

    @contextmanager
    def workspace(self, size: int) -> Iterator[tuple[list[str], list[str]]]:
        """Go to an empty folder and prepare; yield the command, and what is run beside it.

        Raises:
            RecordingError: when a package is missing or the preparation fails.
        """
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                for command in self.prepare:
                    self._prepare(self.words(command, size))
                command = self.words(self.command, size)
                self._find(command[0])
                yield command, self.words(self.beside, size)
            finally:
                os.chdir(before)

    @contextmanager
    def prepared(self, size: int) -> Iterator[list[str]]:
        """Go to an empty folder, prepare, start what runs beside the command; yield the command.

        Raises:
            RecordingError: when a package is missing or the preparation fails.
        """
        with self.workspace(size) as (command, beside):
            client = subprocess.Popen(beside, stdout=subprocess.DEVNULL) if beside else None
            try:
                yield command
            finally:
                if client:
                    with suppress(subprocess.TimeoutExpired):
                        client.wait(10)
                    client.kill()
                    client.wait()

    def _find(self, name: str) -> None:
        if shutil.which(name) is None:
            raise RecordingError(f"{self.name} needs {name}: apt-get install {' '.join(self.packages)}")

    def _prepare(self, command: list[str]) -> None:
        self._find(command[0])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise RecordingError(f"cannot prepare {self.name}: {command[0]}: {last[:200]}")

    def record(self, out: Path | None, *, small: bool = False, **options: Any) -> Program:
        """Record the program; `options` as for `record`."""
        out = out and out.resolve()
        with self.prepared(self.small if small else self.size) as command:
            return record(command, out, name=self.name, environment=self.environment, **options)


def recipes() -> dict[str, Recipe]:
    """Return all recipes by name.

    Raises:
        RecordingError: for a recipe that is not one.
    """
    return {path.stem: read_recipe(path) for path in sorted(FOLDER.glob("*.toml"))}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecordingError: when it cannot be read or is not one.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: {error}") from error
    known = {f.name: str(f.type) for f in fields(Recipe)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise RecordingError(f"{path}: unknown key {unknown[0]}")
    kinds = {"str": str, "int": int, "list[str]": list, "list[list[str]]": list, "dict[str, str]": dict}
    for key, value in data.items():
        if not isinstance(value, kinds[known[key]]):
            raise RecordingError(f"{path}: {key} is a {known[key]}")
    try:
        recipe = Recipe(name=path.stem, **data)
    except TypeError as error:
        raise RecordingError(f"{path}: {str(error).partition('() ')[2]}") from error
    if recipe.split not in SPLITS:
        raise RecordingError(f"{path}: split is one of {', '.join(SPLITS)}")
    return recipe
