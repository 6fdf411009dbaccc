"""The operations of a trace program, as the core declares them (`ops.hpp`): records of 64 bytes, fields by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thp_env.machine import _core

OP_DTYPE = np.dtype(
    [
        ("op", "<u2"),
        ("process", "<u2"),
        ("region", "<u4"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("a", "<u8"),
        ("b", "<u8"),
        ("c", "<u8"),
        ("d", "<u8"),
        ("weight", "<u4"),
        ("aux", "<u4"),
    ]
)
"""One operation as it is stored (64 bytes). `fields` and `rows` give what a slot holds its name."""

ACCESS_DTYPE = np.dtype(
    [
        ("page", "<u4"),
        ("region", "<u2"),
        ("written", "<u2"),
        ("count", "<u4"),
        ("instructions", "<u4"),
    ]
)
"""One run of recorded accesses to one 4K page of a region, and the instructions until the next run."""

BIN_DTYPE = np.dtype([("threshold", "<u8"), ("alias", "<u4"), ("first", "<u4"), ("count", "<u4"), ("scatter", "<u4")])
"""One bin of a discrete distribution over pages, as an alias table."""


@dataclass(frozen=True)
class Field:
    """A field of an operation.

    Attributes:
        name: its name.
        at: its first byte in the record.
        size: its bytes.
        kind: the kind of its values (`THP_FIELD_KINDS` in `ops.hpp`).
        either: whether it is another meaning of the previous field's slot.
    """

    name: str
    at: int
    size: int
    kind: str
    either: bool

    @property
    def below(self) -> int:
        """The first number that it cannot hold; 0: every number that fits is one."""
        return _core.FIELD_KINDS[self.kind][0]

    @property
    def what(self) -> str:
        """What a number that it cannot hold is called."""
        return _core.FIELD_KINDS[self.kind][1]


OPERATIONS: dict[str, tuple[Field, ...]] = {
    name: tuple(Field(*row) for row in rows) for name, rows in _core.OPERATIONS.items()
}
"""The fields of each operation; the position of an operation is its code."""
OPS = tuple(OPERATIONS)
"""Names of the operations; the position is the code."""
CODES = {name: code for code, name in enumerate(OPS)}
REGION_OPS = tuple(name for name, fields in OPERATIONS.items() if "region" in {field.name for field in fields})
"""The operations on a region."""


def _named_dtype(fields: tuple[Field, ...]) -> np.dtype:
    columns = {"op": ("<u2", 0), "process": ("<u2", 2)} | {f.name: (f"<u{f.size}", f.at) for f in fields}
    formats, offsets = zip(*columns.values(), strict=True)
    names = list(columns)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": OP_DTYPE.itemsize})


NAMED = {name: _named_dtype(fields) for name, fields in OPERATIONS.items()}
"""A record of each operation, with its own fields."""


def fields(op: np.void) -> np.void:
    """Return a record with the fields of its operation: `fields(op)["placement"]` of an mmap."""
    return op.view(NAMED[OPS[op["op"]]])


def rows(ops: np.ndarray, name: str) -> np.ndarray:
    """Return records with the fields of one operation; those of other operations mean nothing."""
    return ops.view(NAMED[name])


def among(ops: np.ndarray, *names: str) -> np.ndarray:
    """Return which records are of the named operations; bool."""
    return np.isin(ops["op"], [CODES[name] for name in names])


def blank(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a record of an operation that says nothing yet, and the same record with the operation's fields."""
    op = np.zeros((), OP_DTYPE)
    op["op"] = CODES[name]
    return op, op.view(NAMED[name])


def select(ops: np.ndarray, name: str) -> np.ndarray:
    """Return the records of one operation, with its fields."""
    return rows(ops[ops["op"] == CODES[name]], name)
