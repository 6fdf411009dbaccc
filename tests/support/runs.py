"""Runs with costs that a test chose."""

from __future__ import annotations

from thp_agents.evaluation.episode import Run

PRICED = ("walk_cost", "memory_cost", "pending_memory_cost")


def runs_of(table: dict[str, dict[tuple[str, str], list[float]]], training: int = 0) -> list[Run]:
    """Return runs from {policy: {(family, workload): [cost of each seed]}}."""
    return [
        Run(policy, workload, seed, {"reward": -value, **dict.fromkeys(PRICED, 0.0)}, 1, "done", family=family,
            training=training)
        for policy, of in table.items() for (family, workload), values in of.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
