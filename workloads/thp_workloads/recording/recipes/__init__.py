"""Recipes: how real programs are recorded, one file a program, in TOML.

| key | meaning |
| --- | --- |
| `description` | one line: what the program does to memory |
| `packages` | Debian packages that it needs |
| `license` | of what is run |
| `kind`, `family` | kind of memory behaviour; programs of one family are near relatives |
| `size`, `small` | what `{size}` stands for: at full length (10 to 60 s of a native run), and for a quick look |
| `prepare` | commands that are run before, natively |
| `command` | what is recorded |
| `beside` | a command that is run natively at the same time, as the clients of a server are |
| `environment` | variables to add |
| `status` | exit status of a run that went well; 0 if it is not given |
| `smc_check` | as of `record` |

In commands and the environment `{inputs}` is the folder of scripts that make inputs (all of them seeded), `{python}` is
Debian's Python, and `{folder}` the empty folder in which they run, without a shell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from thp_env.machine.program import Program
from thp_env.reading import TOML_MAX, parse_toml, read_text, reading
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.record import check_writable, record, save
from thp_workloads.recording.tool import build_tool

FOLDER = Path(__file__).resolve().parent
INPUTS = FOLDER / "inputs"
PYTHON = "/usr/bin/python3"
LONGEST = 600.0
"""Seconds of its own time after which a program is taken for one that never ends."""


@dataclass(frozen=True)
class Recipe:
    """A recipe; see the module."""

    name: str
    description: str
    packages: list[str]
    license: str
    kind: str
    family: str
    command: list[str]
    size: int
    small: int
    prepare: list[list[str]] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 0
    smc_check: str = "all-non-file"

    def words(self, command: list[str], size: int) -> list[str]:
        """Fill in what braces stand for."""
        values = {"{inputs}": str(INPUTS), "{python}": PYTHON, "{size}": str(size), "{folder}": str(Path.cwd())}
        result = []
        for word in command:
            for brace, text in values.items():
                word = word.replace(brace, text)
            result.append(word)
        return result

    @contextmanager
    def workspace(self, size: int) -> Iterator[tuple[list[str], list[str]]]:
        """Go to an empty folder and prepare; yield the command, and what is run beside it.

        Raises:
            RecordingError: when a package is missing or the preparation fails.
        """
        self._check_packages()
        before, standard = Path.cwd(), [os.dup(0), os.dup(1)]
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "r+") as nothing:
            os.chdir(folder)
            for number in (0, 1):  # nobody is there to answer, or to read
                os.dup2(nothing.fileno(), number)
            try:
                for command in self.prepare:
                    self._prepare(self.words(command, size), {**os.environ, **self.added(size)})
                command = self.words(self.command, size)
                self._find(command[0])
                yield command, self.words(self.beside, size)
            finally:
                for number, fd in enumerate(standard):
                    os.dup2(fd, number)
                    os.close(fd)
                os.chdir(before)

    def added(self, size: int) -> dict[str, str]:
        """Return the variables to add, in the folder where the program runs."""
        return dict(zip(self.environment, self.words([*self.environment.values()], size), strict=True))

    @contextmanager
    def prepared(self, size: int) -> Iterator[tuple[list[str], dict[str, str]]]:
        """Go to an empty folder, prepare, start what runs beside the command; yield the command and what it adds.

        Raises:
            RecordingError: when a package is missing, or the preparation or what runs beside the command fails.
        """
        with self.workspace(size) as (command, beside):
            client = subprocess.Popen(beside, stdout=subprocess.DEVNULL) if beside else None
            try:
                yield command, self.added(size)
                if client and self._ended(client):
                    raise RecordingError(f"{self.name}: what runs beside it failed: {self.beside[1]}")
            finally:
                if client and client.poll() is None:
                    client.kill()
                    client.wait()

    def _check_packages(self) -> None:
        installed = versions(self.packages)
        missing = [package for package, version in installed.items() if not version]
        if missing and shutil.which("dpkg-query"):
            raise RecordingError(f"{self.name} needs more packages: apt-get install {' '.join(missing)}")

    @staticmethod
    def _ended(client: subprocess.Popen) -> int:
        """Return its exit status; 0 also when it has not noticed yet that the command has ended."""
        with suppress(subprocess.TimeoutExpired):
            return client.wait(10)
        return 0

    def _find(self, name: str) -> None:
        if shutil.which(name) is None:
            raise RecordingError(f"{self.name} needs {name}: apt-get install {' '.join(self.packages)}")

    def _prepare(self, command: list[str], environment: dict[str, str]) -> None:
        self._find(command[0])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise RecordingError(f"cannot prepare {self.name}: {command[0]}: {last[:200]}")

    def record(self, out: Path | None, *, small: bool = False, **options: Any) -> Program:
        """Record the program; `options` as for `record`. `meta` also says what the recipe does, and the versions.

        Raises:
            RecordingError: when it cannot be recorded, or the program fails.
        """
        out = out and out.resolve()
        if out:
            check_writable(out)
        build_tool()  # lackey would take hours
        size = self.small if small else self.size
        with self.prepared(size) as (command, added):
            before = os.times()
            program = record(command, name=self.name, environment=added, smc_check=self.smc_check, seconds=LONGEST,
                             **options)  # fmt: skip
            after = os.times()
        if program.meta["own_seconds"] >= LONGEST:
            raise RecordingError(f"{self.name} did not end within {LONGEST:.0f} s of its own time")
        if (status := program.meta["exit_status"]) != self.status:
            ending = f"signal {-status}" if status < 0 else f"exit status {status}, not {self.status}"
            raise RecordingError(f"{self.name} failed while it was recorded: {ending}")
        program.meta.update(
            description=self.description, kind=self.kind, family=self.family, license=self.license, size=size,
            packages=versions(self.packages), cpu_seconds=round(sum(after[:4]) - sum(before[:4]), 1),
        )  # fmt: skip
        if out:
            save(program, out)
        return program


def versions(packages: list[str]) -> dict[str, str]:
    """Return the installed versions of Debian packages; empty where dpkg does not know."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\\n", *packages]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    except OSError:
        lines = []
    installed = {words[1]: words[2] for words in map(str.split, lines) if words[0] == "installed" and len(words) == 3}
    return {package: installed.get(package, "") for package in packages}


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
    with reading(path, RecordingError, "a recipe"):
        data = parse_toml(read_text(path, TOML_MAX))
    field_types = {f.name: str(f.type) for f in fields(Recipe)}
    unknown = sorted(set(data) - set(field_types))
    if unknown:
        raise RecordingError(f"{path}: unknown key {unknown[0]}")
    kinds = {"str": str, "int": int, "list[str]": list, "list[list[str]]": list, "dict[str, str]": dict}
    for key, value in data.items():
        if not isinstance(value, kinds[field_types[key]]):
            raise RecordingError(f"{path}: {key} is a {field_types[key]}")
    try:
        return Recipe(name=path.stem, **data)
    except TypeError as error:
        raise RecordingError(f"{path}: {str(error).partition('() ')[2]}") from error
