"""The folder of the documentation, and the module that makes pages of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def build() -> ModuleType:
    """Return the module `docs/build.py`, which is a script."""
    spec = importlib.util.spec_from_file_location("build", DOCS / "build.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
