"""All results of an evaluation in one file, from which every table and picture can be made again.

The file names what determined the results: each policy's code and weights, each program, the simulator's behaviour, the
prices, and the choice on validation. It contains its own digest, so an edited file is refused.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

import thp_env
from thp_agents.evaluation.choice import Choice
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.episode import Run
from thp_agents.evaluation.run import Entry, Failure
from thp_agents.evaluation.scores import NEVER
from thp_agents.evaluation.suites import Case, content
from thp_agents.files import write_bytes
from thp_agents.policy import PolicyError
from thp_agents.records import Natural, json_digest, read_json
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices

FORMAT = "thp_env results 1"

Kind = Literal["heuristic", "learned", "reference"]


Label = Annotated[str, msgspec.Meta(max_length=1000)]
"""What stands in tables and pictures, which would take for ever over anything longer."""


class PolicyRow(msgspec.Struct, forbid_unknown_fields=True):
    """A policy that took part: the fields of `run.Entry` that outlive the process."""

    name: Label
    training: Natural
    kind: Kind
    digest: str = ""
    code: str = ""
    behaviour: Natural = BEHAVIOUR
    curve: list[tuple[Natural, float]] = []


class ProgramRow(msgspec.Struct, forbid_unknown_fields=True):
    """A case, and the digest of the program that it draws."""

    workload: str
    size: str
    seed: Natural
    program: str


class RunRow(msgspec.Struct, forbid_unknown_fields=True):
    """One run: the fields of `episode.Run`, without pictures."""

    policy: Label
    training: Natural
    family: Label
    workload: Label
    seed: Natural
    decisions: Natural
    reason: str
    metrics: dict[str, float]

    @property
    def run(self) -> Run:
        """The run."""
        return Run(self.policy, self.workload, self.seed, self.metrics, self.decisions, self.reason,
                   training=self.training, family=self.family)  # fmt: skip


class Results(msgspec.Struct, forbid_unknown_fields=True, dict=True):
    """An evaluation.

    Attributes:
        title: for people.
        suite: its name; "" for workloads that were named.
        policies, programs, runs: with those of references.
        failures: one line for each run that was left out, with the reason.
        notes: lines for people.
        choice: the earlier choice on validation; None: there is none.
        behaviour, prices, version: of the runs.
    """

    title: str
    suite: str
    policies: list[PolicyRow]
    programs: list[ProgramRow]
    runs: list[RunRow]
    failures: list[str] = []
    notes: list[str] = []
    choice: Choice | None = None
    behaviour: Natural = BEHAVIOUR
    prices: dict[str, float] = msgspec.field(default_factory=lambda: asdict(Prices()))
    version: str = thp_env.__version__

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each policy, by name."""
        return {p.name: p.kind for p in self.policies}

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Learning curve of each training that has one."""
        return {f"{p.name}#{p.training}": p.curve for p in self.policies if p.curve}

    @property
    def reference(self) -> str:
        """The policy that savings count from: the one chosen on validation, else the best heuristic here."""
        ran = {r.policy for r in self.runs}
        if self.choice and self.choice.reference in ran:
            return self.choice.reference
        first = next(r.policy for r in self.runs)
        comparison = Comparison(self._runs, first, self.kinds)
        return comparison.best("heuristic") or first

    @cached_property
    def _runs(self) -> list[Run]:
        return [row.run for row in self.runs]

    @cached_property
    def comparison(self) -> Comparison:
        """Every policy held against `reference`."""
        return Comparison(self._runs, self.reference, self.kinds)

    @property
    def headline(self) -> str | None:
        """The learned policy that was chosen on validation, else the best one here; None without learned policies."""
        name = self.choice and self.choice.headline
        return name if name in self.kinds else self.comparison.best("learned")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal[FORMAT]  # type: ignore[valid-type]
    digest: str
    results: dict[str, Any]


def gather(
    title: str, suite: str, entries: Sequence[Entry], wanted: Sequence[Case], runs: Sequence[Run],
    failures: Sequence[Failure], notes: Sequence[str] = (), choice: Choice | None = None,
) -> Results:  # fmt: skip
    """Return the results of an evaluation.

    Args:
        title, suite, notes, choice: as of `Results`.
        entries: the policies.
        wanted: the cases.
        runs: of `evaluate`, and of references.
        failures: of `evaluate`.
    """
    policies = [PolicyRow(e.name, e.training, e.kind, e.digest, e.code, e.behaviour, list(e.curve))  # type: ignore[arg-type]
                for e in entries]  # fmt: skip
    names = {e.name for e in entries}
    policies += [PolicyRow(name, 0, "reference") for name in dict.fromkeys(r.policy for r in runs) if name not in names]
    programs = [ProgramRow(**case.as_dict(), program=content(case)) for case in wanted]
    rows = [RunRow(r.policy, r.training, r.family, r.workload, r.seed, r.decisions, r.reason, r.metrics) for r in runs]
    return Results(title, suite, policies, programs, rows, reasons(failures), list(notes), choice)


def reasons(failures: Sequence[Failure]) -> list[str]:
    """Say what failed, once for each policy."""
    first: dict[str, Failure] = {}
    for failure in failures:
        first.setdefault(failure.key, failure)
    return [f"{f.key} on {f.case.workload} with seed {f.case.seed}: {f.reason}" for f in first.values()]


def programs_digest(results: Results) -> str:
    """Return a digest of all programs that ran."""
    return hashlib.sha256("".join(p.program for p in results.programs).encode()).hexdigest()[:12]


def save_results(results: Results, path: Path) -> None:
    """Write results with their digest, packed if the file is called .xz.

    Raises:
        PolicyError: when the file cannot be written.
    """
    data = msgspec.to_builtins(results)
    text = json.dumps({"format": FORMAT, "digest": json_digest(data), "results": data}) + "\n"
    write_bytes(path, lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())


def load_results(path: Path) -> Results:
    """Read a file of `save_results`.

    Raises:
        PolicyError: when the file is missing or damaged, or was edited.
    """
    file = read_json(path, _File, "a file of results")
    if file.digest != json_digest(file.results):
        raise PolicyError(f"{path}: it was edited: its digest is another; run the evaluation again")
    try:
        results = msgspec.convert(file.results, Results, strict=True)
        results.comparison.costs  # noqa: B018 -- says which run is missing
        if not any(run.policy == NEVER for run in results.runs):
            raise ValueError(f"{NEVER} did not run")
    except (ValueError, KeyError, StopIteration) as error:
        raise PolicyError(f"{path}: {error or 'there is no run in it'}") from None
    return results
