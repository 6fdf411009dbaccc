"""The recordings of the package thp-env-corpus, which may not be installed."""

from __future__ import annotations

from thp_agents.policy import PolicyError
from thp_env.workload import Workload


def corpus(who: str) -> list[Workload]:
    """Return all recordings of the corpus, of every side of the split.

    Args:
        who: needs them, with a verb, for the error.

    Raises:
        PolicyError: when the package is not installed.
    """
    try:
        from thp_env_corpus import catalogue
    except ModuleNotFoundError:
        raise PolicyError(f"{who} recordings of real programs: make corpus") from None
    return catalogue()
