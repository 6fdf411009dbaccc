"""Digests of the code that determines a result; stored results are keyed by them.

The rule: a policy's code is the source of the module that defines its class, and of that module's imports. Imports
are followed within its package, to modules that are not installed, to those of `thp_agents`, and to the parts of
`thp_env` that `FOLLOWED` names: environments, metrics and prices. `BEHAVIOUR` stands for the simulator itself; other
installed packages and the standard library do not count. Files that a policy reads are not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLLOWED = ("thp_agents", "thp_env.envs", "thp_env.metrics", "thp_env.machine.prices")
"""Packages and modules of this project whose source decides what a policy does and what that costs."""

RUNNER = "thp_agents.evaluation.episode"
"""What runs a policy, whatever it is."""


def policy_code(policy: Any, spec: str) -> str:
    """Return the digest of the code that determines a policy's decisions.

    Args:
        policy: the object.
        spec: of the policy, for `find_policy`.
    """
    modules = [spec.partition(":")[0]] if ":" in spec else []
    return code_digest([RUNNER, *modules, *_classes(policy, set())])


def code_digest(modules: Iterable[str]) -> str:
    """Return a digest of the source of modules and of their imports."""
    waiting = list(modules)
    own = {name.partition(".")[0] for name in waiting}
    sources: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        if name in sources or not (path := _file(name, own)):
            continue
        sources[name] = path.read_bytes()
        is_followed, parent = _is(name, FOLLOWED), name.rpartition(".")[0]
        if not is_followed and parent:
            waiting.append(parent)  # whose __init__ ran first
        for base, parts in _imports(sources[name], name if path.name == "__init__.py" else parent, is_followed):
            inside = [part for part in (f"{base}.{p}" for p in parts) if _file(part, own)]
            waiting += inside if inside and len(inside) == len(parts) else [base, *inside]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.hexdigest()[:12]


def _classes(owner: Any, visited: set[int]) -> Iterator[str]:
    """Yield the modules of the classes of a policy and of the policies that it holds."""
    if id(owner) in visited:
        return
    visited.add(id(owner))
    yield type(owner).__module__
    for value in getattr(owner, "__dict__", {}).values():
        for held in value.values() if isinstance(value, Mapping) else (value,):
            if hasattr(held, "decide"):
                yield from _classes(held, visited)


@cache
def _imports(source: bytes, package: str, outermost: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (module, names) of each import in a module's source; `outermost`: not of those in functions."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # no source, such as an extension module's
        return ()
    imports: list[tuple[str, tuple[str, ...]]] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            imports += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            imports.append((_absolute(base, package), tuple(alias.name for alias in node.names)))
        elif not ((outermost and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)) or _for_types(node)):
            waiting += ast.iter_child_nodes(node)
    return tuple(imports)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _absolute(base: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(base, package)
    except ImportError:
        return base


def _is(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _file(name: str, own: set[str]) -> Path | None:
    """Return the file of a module that counts; None for all others. `own`: packages that count though installed."""
    top = name.partition(".")[0]
    if top in ("thp_agents", "thp_env"):
        if not _is(name, FOLLOWED):
            return None
    elif top in sys.stdlib_module_names or top == "__main__":
        return None
    try:
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else None
    except (ImportError, ValueError, AttributeError):
        return None
    origin = getattr(module, "__file__", None) or (spec and spec.origin)
    path = Path(origin) if origin else None
    if path is None or not path.is_file():
        return None
    return path if top in {"thp_agents", "thp_env", *own} or not _installed(path) else None


def _installed(path: Path) -> bool:
    """Whether a file is the standard library's or lies where packages are installed, of whichever environment."""
    if {"site-packages", "dist-packages"}.intersection(path.parts):
        return True
    return any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib"))
