"""Arguments of the environments in files of version 0.1, which called some of them otherwise."""

from __future__ import annotations

from typing import Any

_NAMES = {"default": "default_sizes", "metrics": "shadow_tlb"}


def current_names(arguments: Any) -> Any:
    """Return arguments, or options of a reset, with their present names; return any other value unchanged."""
    if not isinstance(arguments, dict):
        return arguments
    names = dict(_NAMES)
    if arguments.get("interface") in ("bpf", "address"):  # of FaultOrder-v0
        names["interface"] = "hook"
    return {names.get(name, name): value for name, value in arguments.items()}
