"""The file form of trace programs: a compressed .npz without pickles."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from thp_env.files import whole_file
from thp_env.traces.program import ACCESS_DTYPE, BIN_DTYPE, OP_DTYPE, Program, ProgramError

FORMAT = "thp_env trace program 1"


def save_program(program: Program, path: str | os.PathLike) -> None:
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
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), "tables": program.tables}
    for name in ("ops", "accesses", "bins"):
        data = getattr(program, name)
        arrays |= {f"{name}.{column}": np.ascontiguousarray(data[column]) for column in data.dtype.names}
    try:
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ProgramError(f"cannot write {path}: {error.strerror or error}") from None


def load_program(path: str | os.PathLike) -> Program:
    """Read a program from a .npz file.

    Raises:
        ProgramError: when the file is missing, damaged or not a trace program.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if header.get("format") != FORMAT:
                raise ProgramError(f"{path}: not a trace program of this version")
            records = {
                name: _join(path, file, name, dtype)
                for name, dtype in (("ops", OP_DTYPE), ("accesses", ACCESS_DTYPE), ("bins", BIN_DTYPE))
            }
            program = Program(
                **records,
                tables=file["tables"].astype(np.uint32).reshape(-1, 2),
                processes=tuple(map(str, header["processes"])),
                regions=tuple(map(str, header["regions"])),
                seed=int(header["seed"]),
                meta=dict(header["meta"]),
            )
    except ProgramError:
        raise
    except FileNotFoundError:
        raise ProgramError(f"{path}: no such file") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise ProgramError(f"{path}: truncated or not a .npz file ({error})") from None
    except (KeyError, ValueError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ProgramError(f"{path}: not a trace program ({error})") from None
    if checksum(program) != header.get("checksum"):
        raise ProgramError(f"{path}: damaged: its checksum does not match; fetch or record it again")
    return program.check(source=str(path))


def checksum(program: Program) -> str:
    """Return a SHA-256 over everything that decides what the program does."""
    return program.checksum


def _join(path: str | os.PathLike, file: np.lib.npyio.NpzFile, name: str, dtype: np.dtype) -> np.ndarray:
    columns = {column: file[f"{name}.{column}"] for column in dtype.fields or ()}
    data = np.zeros(len(next(iter(columns.values()))), dtype)
    for column, values in columns.items():
        if values.shape != data.shape or values.dtype != dtype[column]:
            raise ProgramError(f"{path}: column {name}.{column} does not fit")
        data[column] = values
    return data
