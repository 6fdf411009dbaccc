"""Checks what files of this package hold against schemas: dataclasses, msgspec's structs and typed dictionaries."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from thp_agents.policy import PolicyError
from thp_env.names import did_you_mean
from thp_env.reading import TOML_MAX, FileError, parse_json, parse_toml, read_text, reading

T = TypeVar("T")

Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Natural = Annotated[int, Meta(ge=0, le=1 << 40)]
Seed = Annotated[int, Meta(ge=0, lt=1 << 32)]
"""What NumPy's, PyTorch's and scikit-learn's generators take."""
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(pattern=r"^(?!\.)[^/\\\x00-\x1f\x7f]{1,64}\Z")]
"""A name that files are called after: no path."""


def convert(value: Any, schema: type[T], place: str = "") -> T:
    """Return a value as what a schema says.

    Args:
        value: what JSON or TOML can hold.
        schema: a class with annotated fields; there must be no others.
        place: what to call the value in an error.

    Raises:
        FileError: naming the first field that does not fit, and the nearest one for a name that there is not.
    """
    if isinstance(value, Mapping):
        field_types = get_type_hints(schema)
        for key in value:
            if key not in field_types:
                hint = did_you_mean(key, field_types) or ";"
                raise FileError(f"{_at(place, '')}unknown key {key!r}{hint} There are {', '.join(field_types)}")
    return _convert(value, schema, place)


def _convert(value: Any, schema: type[T], place: str) -> T:
    _finite(value, place)
    try:
        return msgspec.convert(value, schema, strict=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`")
        if reason.startswith("Invalid enum value"):
            alternatives = get_args(get_type_hints(schema).get(path.removeprefix("."), Any))
            reason = f"{reason.removeprefix('Invalid enum value ')} is none of {', '.join(map(str, alternatives))}"
        if reason.startswith("Expected `str` matching"):
            reason = "not a name: no / and no dot at its beginning, 64 characters at most"
        raise FileError(_at(place + path, reason)) from None
    except (RecursionError, OverflowError) as error:
        raise FileError(_at(place, str(error))) from None


def read_json(path: str | os.PathLike[str], schema: Any, what: str) -> Any:
    """Read a JSON file of this package, which should be `what`.

    Raises:
        PolicyError: naming the file, the place and the reason.
    """
    with reading(path, PolicyError, what):
        return _convert(parse_json(read_text(path)), schema, "")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        PolicyError: naming the file, the place and the reason.
    """
    with reading(path, PolicyError, "an agent"):
        return parse_toml(read_text(path, TOML_MAX))


def json_digest(document: Any) -> str:
    """Return the SHA-256 of a document of JSON, in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _finite(value: Any, place: str, depth: int = 32) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise FileError(_at(place, f"{value} is not a finite number"))
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not depth and inner:
        raise FileError(_at(place, "nested too deep"))
    for key, one in inner:
        if isinstance(one, float | list | dict):
            _finite(one, f"{place}.{key}" if isinstance(key, str) else f"{place}[{key}]", depth - 1)


def _at(place: str, reason: str) -> str:
    return f"{place.removeprefix('.')}: {reason}" if place else reason
