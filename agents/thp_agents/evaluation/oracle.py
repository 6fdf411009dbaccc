"""The static oracle: the best fixed sizes for each group of VMAs, known in advance.

The result of the search never costs more than the best fixed setting for all VMAs. It need not be the best of all
combinations, and it is no bound: a policy may change sizes during a run, and the oracle may not.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from thp_agents.evaluation.reference import FOLDER, Outcome, Reference
from thp_agents.evaluation.search import CANDIDATES, GROUPS, ROUNDS, SETTINGS, finish, run_setting, search
from thp_agents.evaluation.suites import Case, digest, instance_of
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices


def solve(case: Case) -> Outcome:
    """Search the best fixed sizes, from the best setting for all VMAs on."""
    instance = instance_of(case)
    costs = {sizes: finish(run_setting(instance, sizes))[0]["total_ns"] for sizes in SETTINGS.values()}
    machine, choices = search(instance, min(costs, key=lambda sizes: (costs[sizes], sizes)))
    metrics, _ = finish(machine)
    metrics["reward"] = -metrics["total_ns"] / max(1.0, float(instance.program.work.sum()))
    return Outcome(digest(instance), metrics, choices)


def decided_by() -> dict[str, Any]:
    """Return what determines all results, independent of the case, as JSON."""
    search_space = {"settings": [*SETTINGS.values()], "candidates": [*CANDIDATES], "groups": GROUPS, "rounds": ROUNDS}
    return {"behaviour": BEHAVIOUR, "prices": asdict(Prices()), "search": search_space}


STATIC_ORACLE = Reference("static_oracle", "static oracle", solve, decided_by, FOLDER / "oracle.json")
