"""How a command says, in one line, what went wrong."""

from __future__ import annotations

import sys

from thp_env.reading import printable

EXTRAS = {
    "agents": ("matplotlib", "sb3_contrib", "sklearn", "stable_baselines3", "tensorboard", "torch", "tqdm"),
    "tune": ("optuna",),
    "ray": ("ray",),
    "watch": ("rich",),
    "examples": ("h5py", "minari", "moviepy", "pygame", "yaml"),
}
"""Modules of packages that come with an extra of thp-env."""


def refuse(error: Exception) -> int:
    """Print what went wrong in one line, and return the exit code."""
    print(f"thp-env: {printable(' '.join(_reason(error).split()))}", file=sys.stderr)
    return 2


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                return f"this needs {package}, which is not installed: pip install 'thp-env[{extra}]'"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ValueError | OSError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"
