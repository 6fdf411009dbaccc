"""Agents that learn: what they are, how they are trained, and the policies that ship."""

from __future__ import annotations

from pathlib import Path

TRAINED = Path(__file__).with_name("trained")


def shipped() -> dict[str, Path]:
    """Return the trained policies that ship: `AGENT#SEED` and the file of its weights."""
    files = sorted(TRAINED.glob("*.npz"))
    return {"#".join(path.stem.rsplit("-", 1)): path for path in files}
