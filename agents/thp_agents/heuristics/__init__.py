"""Published rules, one file each. Files in this folder are found automatically.

A file offers the policies in its `POLICIES` (makers by name); without `POLICIES`, its subclasses of `Policy` that have
a name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType

from thp_agents.policy import Policy, PolicyError


def _policies_of(module: ModuleType) -> Mapping[str, Callable[[], Policy]]:
    if makers := getattr(module, "POLICIES", None):
        return makers
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    return {c.name: c for c in classes if issubclass(c, Policy) and c.name}


def _catalogue() -> dict[str, Callable[[], Policy]]:
    names = sorted((m.name for m in pkgutil.iter_modules(__path__)), key=lambda name: (name != "kernel_settings", name))
    makers: dict[str, Callable[[], Policy]] = {}
    files: dict[str, str] = {}
    for module in (importlib.import_module(f"{__name__}.{name}") for name in names):
        for name, maker in _policies_of(module).items():
            if name in makers:
                raise PolicyError(f"two policies are called {name}: in {files[name]} and in {module.__name__}")
            makers[name], files[name] = maker, module.__name__
    return makers


POLICIES = _catalogue()
"""A maker for each heuristic, by name: the kernel's settings, then the rules by file."""
