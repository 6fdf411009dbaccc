"""The one place that registers environments; `import thp_env` calls it.

Gymnasium has loaded no plugins (entry points of group `gymnasium.envs`) since 1.0, so a program imports thp_env before
`gymnasium.make`, or names it: `gymnasium.make("thp_env:thp_env/VmaOrder-v0")`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import load_env_creator, register, registry

GROUP = "thp_env.environments"
"""Entry points of other packages' environments: the id of each, and module:XEnv."""

FOLDER = Path(__file__).parent / "envs"
CLASS = re.compile(r"^class (\w+)Env\(ThpEnv\):", re.MULTILINE)


def _own_environments() -> dict[str, str]:
    """Return the environments of this package: each `XEnv` of a file in `envs/` is thp_env/X-v0. Imports nothing."""
    return {
        f"thp_env/{name}-v0": f"thp_env.envs.{file.stem}:{name}Env"
        for file in sorted(FOLDER.glob("*.py"))
        for name in CLASS.findall(file.read_text(encoding="utf-8"))
    }


def _environments() -> dict[str, str]:
    entries = _own_environments()
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        if entries.setdefault(entry.name, entry.value) != entry.value:
            raise ValueError(f"two environments are called {entry.name}: {entries[entry.name]} and {entry.value}")
    return entries


ENVIRONMENTS = _environments()
"""Environment ids and where their classes are; the vector environment of `XEnv` is `XVectorEnv` in the same file."""


def register_environments() -> None:
    """Register every environment; imports nothing of the simulator.

    Gymnasium's wrappers for checks and for the order of calls are off: with them, a new environment could not continue
    from a restored state. The environments check the order themselves, and tests run Gymnasium's checker.
    `make(disable_env_checker=False)` adds it.
    """
    for env_id, entry_point in ENVIRONMENTS.items():
        if env_id not in registry:
            vector = entry_point.removesuffix("Env") + "VectorEnv"
            register(
                id=env_id, entry_point=entry_point, vector_entry_point=vector, order_enforce=False,
                disable_env_checker=True,
            )  # fmt: skip


def check_arguments(env_id: str, arguments: Mapping[str, Any], place: str = "arguments") -> None:
    """Check the arguments of an environment that a file names, before anything is made from them.

    Args:
        env_id: one of `ENVIRONMENTS`.
        arguments: by name.
        place: their name in an error.

    Raises:
        FileError: for an unknown name, or a value of the wrong type, naming it.
    """
    from thp_env.reading import FileError

    env_class: Any = load_env_creator(ENVIRONMENTS[env_id])
    try:
        env_class.task_class.check_arguments(arguments)
    except (TypeError, ValueError) as error:
        raise FileError(f"{place}: {error}") from None
