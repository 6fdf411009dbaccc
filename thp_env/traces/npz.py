"""The file form of trace programs: a compressed .npz without pickles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from thp_env.archive import HEADER, Column, read_archive, read_header
from thp_env.files import whole_file
from thp_env.machine.layout import TASK_SIZE
from thp_env.machine.operations import ACCESS_DTYPE, BIN_DTYPE, OP_DTYPE
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.reading import FileError, reading
from thp_env.schema import U64, Bounds, fit

FORMAT = "thp_env trace program 1"

RECORDS = {"ops": OP_DTYPE, "accesses": ACCESS_DTYPE, "bins": BIN_DTYPE}
COLUMNS = {
    "header": HEADER,
    "tables": Column(("<u4",), (None, 2)),
    **{
        f"{name}.{column}": Column((dtype[column].str,), (None,))
        for name, dtype in RECORDS.items()
        for column in dtype.fields or ()
    },
}
"""The arrays of a file: records column by column."""

Names = Annotated[list[str], Bounds(0, 1 << 16, "length")]


class Header(TypedDict):
    """The JSON document of a file."""

    format: str
    processes: Names
    regions: Names
    seed: U64
    meta: dict[str, Any]
    checksum: str


class Meta(TypedDict, total=False):
    """The fields of `Program.meta` that are used; there may be more."""

    name: str
    description: str
    source: str
    brk_start: Annotated[int, Bounds(0, TASK_SIZE)]
    mmap_base: Annotated[int, Bounds(0, TASK_SIZE)]
    distortions: list[str]


def save_program(program: Program, path: str | os.PathLike[str]) -> None:
    """Write a program to a .npz file; the file appears whole or not at all.

    Columns of records are stored one by one, since they compress to half the size.

    Raises:
        ProgramError: when the file cannot be written.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "processes": program.processes,
        "regions": program.regions,
        "seed": program.seed,
        "meta": program.meta,
        "checksum": checksum(program),
    }
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    arrays = {"header": text, "tables": program.alias_tables.astype("<u4")}
    for name in ("ops", "accesses", "bins"):
        data = getattr(program, name)
        arrays |= {f"{name}.{column}": np.ascontiguousarray(data[column]) for column in data.dtype.names}
    try:
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ProgramError(f"cannot write {path}: {error.strerror or error}") from None


def load_program(path: str | os.PathLike[str]) -> Program:
    """Read a program from a .npz file.

    Raises:
        ProgramError: when the file is missing, damaged or not a trace program.
    """
    with reading(path, ProgramError, "a trace program"):
        arrays = read_archive(path, COLUMNS)
        header: Header = read_header(arrays)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ProgramError(f"{path}: not a trace program of this version")
        fit(header, Header, "header")
        meta = header["meta"]
        fit({key: meta[key] for key in meta if key in Meta.__annotations__}, Meta, "header.meta")
        for names in ("processes", "regions"):
            if len(set(header[names])) < len(header[names]):
                raise FileError(f"header.{names}: a name stands twice")
        program = Program(
            **{name: _join(arrays, name, dtype) for name, dtype in RECORDS.items()},
            alias_tables=arrays["tables"].astype(np.uint32),
            processes=tuple(header["processes"]),
            regions=tuple(header["regions"]),
            seed=header["seed"],
            meta=meta,
        )
        if checksum(program) != header["checksum"]:
            raise ProgramError(f"{path}: damaged: its checksum does not match; fetch or record it again")
    return program.check(source=str(path))


def checksum(program: Program) -> str:
    """Return a SHA-256 of everything that determines what the program does."""
    return program.checksum


def _join(arrays: dict[str, np.ndarray], name: str, dtype: np.dtype) -> np.ndarray:
    columns = {column: arrays[f"{name}.{column}"] for column in dtype.fields or ()}
    data = np.zeros(len(next(iter(columns.values()))), dtype)
    for column, values in columns.items():
        if len(values) != len(data):
            raise FileError(f"{name}.{column} does not fit: it has {len(values)} rows, not {len(data)}")
        data[column] = values
    return data
