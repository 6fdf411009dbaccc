"""Agents that learn: their configuration, their training, and the shipped policies."""

from __future__ import annotations

from pathlib import Path

TRAINED = Path(__file__).with_name("trained")


def shipped() -> dict[str, Path]:
    """Return the trained policies that ship: `AGENT#SEED` and the file of its weights."""
    files = sorted(TRAINED.glob("*.npz"))
    return {"#".join(path.stem.rsplit("-", 1)): path for path in files}
