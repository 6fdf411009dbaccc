"""Schemas of values from files and callers: Python's own annotations, checked.

A schema is a type: int, float, str, bool, None, `list[T]`, `tuple[A, B]`, `tuple[T, ...]`, `Sequence[T]`,
`dict[str, T]`, `Literal`, unions, a `TypedDict` (whose keys are all there are), `Annotated[T, Bounds(...)]`, any class,
or `Any`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from typing import is_typeddict as _is_typed_dict

from thp_env.names import did_you_mean
from thp_env.reading import DEPTH_MAX, FileError


class Bounds(NamedTuple):
    """Bounds of a number or a length.

    Attributes:
        least, most: both included.
        of: "" for the number itself, "length" for that of a text or a list.
    """

    least: float = -math.inf
    most: float = math.inf
    of: str = ""


U64 = Annotated[int, Bounds(0, (1 << 64) - 1)]
"""A number of 64 bits, such as a seed."""

NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}


def fit(value: Any, schema: Any, place: str = "") -> None:
    """Check that a value agrees with a schema.

    Args:
        value: to be checked.
        schema: a type.
        place: name of the value in an error, such as "meta.seed".

    Raises:
        FileError: naming the first place that does not agree, its value and the expected one.
    """
    if type(value) is schema and schema is not float:
        return
    origin, inner = get_origin(schema), get_args(schema)
    if schema is Any:
        _require(not _deeper(value, DEPTH_MAX), "what stands here", f"nested {DEPTH_MAX} deep at most", place)
        return
    if origin is Annotated:
        fit(value, inner[0], place)
        for bounds in inner[1:]:
            _within(value, bounds, place)
    elif origin in (Required, NotRequired):
        fit(value, inner[0], place)
    elif origin in (Union, UnionType):
        _one_of(value, inner, place)
    elif origin is Literal:
        if not any(type(value) is type(literal) and value == literal for literal in inner):
            raise FileError(f"{_at(place)}{_excerpt(value)} is not known{did_you_mean(value, inner)}: one of "
                            f"{', '.join(map(str, inner))}")  # fmt: skip
    elif _is_typed_dict(schema):
        _fields(value, schema, place)
    elif origin in (dict, Mapping):
        _require(isinstance(value, Mapping), value, "an object", place)
        for key, one in value.items():
            fit(key, inner[0], f"a key of {place or 'it'}")
            fit(one, inner[1], f"{place}.{key}" if place else str(key))
    elif origin in (list, tuple, Sequence):
        _items(value, origin, inner, place)
    elif schema in (int, float):
        kind = Integral if schema is int else Real
        _require(isinstance(value, kind) and not isinstance(value, bool), value, NAMES[schema], place)
        _require(schema is int or abs(value) <= sys.float_info.max, value, "a finite number", place)
    elif origin is Callable or schema is Callable:
        _require(callable(value), value, "a function", place)
    else:
        schema = NoneType if schema is None else origin or schema
        _require(isinstance(value, schema), value, NAMES.get(schema, f"a {schema.__name__}"), place)


_hints = lru_cache(get_type_hints)


def _fields(value: Any, schema: Any, place: str) -> None:
    _require(isinstance(value, Mapping), value, "an object", place)
    hints = _hints(schema, include_extras=True)
    for key in value:
        if key not in hints:
            advice = f"{did_you_mean(key, hints)} There are {', '.join(hints)}"
            raise FileError(f"{_at(place)}unknown key {_excerpt(key)}{advice if '?' in advice else ';' + advice}")
    for key, hint in hints.items():
        # The class's own __required_keys__ does not see through annotations that are texts.
        mark = get_origin(hint)
        is_required = mark is Required or (key in schema.__required_keys__ and mark is not NotRequired)
        if is_required and key not in value:
            raise FileError(f"{_at(place)}there is no {key}")
    for key, one in value.items():
        fit(one, hints[key], f"{place}.{key}" if place else key)


def _items(value: Any, origin: Any, inner: tuple[Any, ...], place: str) -> None:
    _require(isinstance(value, list | tuple) or (origin is Sequence and isinstance(value, Sequence)
             and not isinstance(value, str | bytes)), value, "a list", place)  # fmt: skip
    if origin is tuple and inner[-1:] != (Ellipsis,):
        _require(len(value) == len(inner), value, f"a list of {len(inner)}", place)
        kinds: Sequence[Any] = inner
    else:
        kinds = (inner[0] if inner else Any,) * len(value)
    for i, (one, kind) in enumerate(zip(value, kinds, strict=True)):
        fit(one, kind, f"{place}[{i}]")


def _one_of(value: Any, kinds: tuple[Any, ...], place: str) -> None:
    reasons = []
    for kind in kinds:
        try:
            return fit(value, kind, place)
        except FileError as error:
            reasons.append(str(error))
    deepest = max(reasons, key=lambda reason: len(reason.partition(":")[0]))
    same = len({reason.partition(":")[0] for reason in reasons}) == 1
    if same and all(kind in NAMES or kind is None for kind in kinds):
        names = [NAMES[NoneType if kind is None else kind] for kind in kinds]
        _require(False, value, " or ".join(names), place)
    raise FileError(deepest)


def _deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _deeper(v, depth - 1) for v in inner if isinstance(v, dict | list))


def _within(value: Any, bounds: Any, place: str) -> None:
    if not isinstance(bounds, Bounds):
        return
    number, what = (len(value), f"{bounds.of} ") if bounds.of else (value, "")
    if not bounds.least <= number <= bounds.most:
        most = "on" if math.isinf(bounds.most) else f"to {bounds.most}"
        raise FileError(f"{_at(place)}{what}{_excerpt(number)} is not from {bounds.least} {most}")


def _require(right: bool, value: Any, wanted: str, place: str) -> None:
    if not right:
        raise FileError(f"{_at(place)}{_excerpt(value)} is not {wanted}")


def _at(place: str) -> str:
    return f"{place}: " if place else ""


def _excerpt(value: Any) -> str:
    for kind, name in ((bool, str(value).lower()), (NoneType, "null")):
        if isinstance(value, kind):
            return name
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
