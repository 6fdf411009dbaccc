"""Recordings of real programs for thp_env, divided into training, validation and test by what they do to memory."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thp_env.workload import Workload

FOLDER = Path(str(files("thp_env_corpus")))
RECORDINGS = FOLDER / "recordings"


@cache
def families() -> dict[str, dict[str, Any]]:
    """Return the families of `split.toml` by name: their `side`, `behaviour`, and `relatives` in thp_workloads."""
    return tomllib.loads((FOLDER / "split.toml").read_text())["families"]


def catalogue() -> list[Workload]:
    """Return all recordings as workloads; the entry point `thp_env.workloads` calls this.

    Raises:
        ProgramError: when the index of the recordings cannot be read.
    """
    from thp_workloads.collection import workloads

    return workloads(RECORDINGS, {name: family["side"] for name, family in families().items()})
