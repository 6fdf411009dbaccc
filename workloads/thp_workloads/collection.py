"""A folder of recordings of another package: its index, and the workloads.

The index, `index.json`, describes each recording, so that the file need not be read. `thp-env corpus record` writes
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from thp_env.files import whole_file
from thp_env.reading import FileError, read_bytes
from thp_env.traces import Program, ProgramError
from thp_env.workload import Workload
from thp_workloads.recordings import Recorded, recording
from thp_workloads.relocation import reach

INDEX = "index.json"


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """The entry of a recording in an index.

    Attributes:
        description: one line: what the program does to memory.
        kind: of memory behaviour.
        family: shared by near relatives.
        license: of the recorded program.
        packages: its Debian packages, with their versions.
        instructions: executed by it.
        touched: bytes of memory that it touches.
        footprint: bytes of the 2M blocks that it touches; its machine is made for these, as it may reserve much more.
        checksum: of the trace program, `Program.checksum`.
    """

    description: str
    kind: str
    family: str
    license: str
    packages: dict[str, str]
    instructions: int
    touched: int
    footprint: int
    checksum: str


def entry_of(program: Program) -> Entry:
    """Return the index entry of a program that was recorded by a recipe."""
    meta = program.meta
    return Entry(
        meta["description"], meta["kind"], meta["family"], meta["license"], meta["packages"],
        meta["instructions"], meta["touched_bytes"], reach(program), program.checksum,
    )  # fmt: skip


def read_index(folder: Path) -> dict[str, Entry]:
    """Return the entries of a folder's index by name; none where there is no index.

    Raises:
        ProgramError: when it cannot be read or is not an index.
    """
    path = folder / INDEX
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, Entry])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ProgramError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, FileError, RecursionError) as error:
        raise ProgramError(f"{path}: {error}") from error


def add(folder: Path, name: str, program: Program) -> None:
    """Put a recording into a folder's index.

    Raises:
        ProgramError: when the index cannot be read or written.
    """
    entries = dict(sorted({**read_index(folder), name: entry_of(program)}.items()))
    path = folder / INDEX
    try:
        with whole_file(path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n")
    except OSError as error:
        raise ProgramError(f"cannot write {path}: {error.strerror}") from error


def workloads(folder: Path, sides: Mapping[str, str]) -> list[Workload]:
    """Return the recordings of a folder as workloads.

    Args:
        folder: with an index.
        sides: the side of each family.

    Raises:
        ProgramError: when the index cannot be read, or names a family without a side.
    """
    result = []
    for name, entry in read_index(folder).items():
        if entry.family not in sides:
            raise ProgramError(f"{folder / INDEX}: {name} is of the family {entry.family!r}, which stands on no side")
        file = Recorded(str(folder / f"{name}.npz"), entry.checksum, entry.footprint)
        result.append(recording(name, entry.family, sides[entry.family], entry.description, file))
    return result
