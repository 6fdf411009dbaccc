"""The choice on validation, before the test side is run: the reference of savings, and the headline.

The rule: the reference is the heuristic that saves most against Linux's defaults (`LINUX`), capped; the headline is
the learned policy that saves most against the reference, capped. The choice is a file of the package with its table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.reference import FOLDER
from thp_agents.files import write_text
from thp_agents.policy import PolicyError
from thp_agents.records import Natural, read_json
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices

CHOICE = FOLDER / "choice.json"

LINUX = "linux_6_18"
"""What heuristics are held against to choose one of them."""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A policy on validation: capped savings against `LINUX`, and where it saves least."""

    policy: str
    kind: str
    saving: float
    low: float
    high: float
    worst_workload: str
    worst_saving: float


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """A choice, its cases, and the table on which it is based."""

    reference: str
    headline: str | None
    suite: str
    behaviour: Natural
    prices: dict[str, float]
    programs: str
    table: list[Row]


def load_choice(path: Path = CHOICE) -> Choice | None:
    """Read the choice; None if there is none.

    Raises:
        PolicyError: when the file is damaged.
    """
    return read_json(path, Choice, "a choice of policies") if path.exists() else None


def choose(comparison: Comparison, suite: str, programs: str) -> Choice:
    """Choose by the rule above.

    Args:
        comparison: of the validation suite.
        suite: its name.
        programs: digest of its programs.

    Raises:
        PolicyError: when `LINUX` or every other heuristic is missing.
    """
    if LINUX not in comparison.policies:
        raise PolicyError(f"--choose holds heuristics against {LINUX}: let it take part")
    linux = Comparison(comparison.runs, LINUX, comparison.kinds, resamples=comparison.resamples)
    reference = linux.best("heuristic")
    if reference is None:
        raise PolicyError("--choose needs a heuristic")
    headline = Comparison(comparison.runs, reference, comparison.kinds).best("learned")
    return Choice(reference, headline, suite, BEHAVIOUR, asdict(Prices()), programs, _table(linux))


def _table(comparison: Comparison) -> list[Row]:
    rows: Sequence[str] = [n for n in comparison.ranking() if comparison.kinds.get(n) in ("heuristic", "learned")]
    table = []
    for name in rows:
        saving, worst = comparison.saving(name), comparison.worst_workload(name)
        value, low, high = (round(v, 2) for v in saving)
        table.append(Row(name, comparison.kinds[name], value, low, high, worst.name, round(worst.saving, 2)))
    return table


def save_choice(choice: Choice, path: Path = CHOICE) -> None:
    """Write a choice.

    Raises:
        PolicyError: when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(msgspec.to_builtins(choice), indent=1) + "\n")
