"""Reading .npz and .zip files that strangers wrote: without pickles, and never more than was declared.

The list of members is checked before anything is unpacked. For each array the schema, the array's header and the zip's
list have to agree, and not a byte more is unpacked.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np

from thp_env.names import did_you_mean
from thp_env.reading import DIRECTORY_MAX, HEADER_MAX, MEMBERS_MAX, UNPACKED_MAX, FileError, open_file, parse_json

END, END_64, END_SIZE = b"PK\5\6", b"PK\6\7", 22
"""The zip format's end of the list of members, and the mark of its 64-bit form (APPNOTE 4.3.15 and 4.3.16)."""
ENCRYPTED = 1


class Column(NamedTuple):
    """The schema of an array.

    Attributes:
        kinds: dtypes that it may have, as NumPy's `dtype.str` ("<u4"), or all of a kind as its letter ("f").
        shape: its length along each axis, None for any; or None: any shape.
        optional: it need not be there.
    """

    kinds: tuple[str, ...]
    shape: tuple[int | None, ...] | None
    optional: bool = False


HEADER = Column(("|u1",), (None,))
"""A JSON document, as bytes."""


def read_archive(
    path: str | os.PathLike[str], columns: Mapping[str, Column], *, others: Column | None = None,
    beside: Collection[str] = (), limit: int = UNPACKED_MAX,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Read the arrays of a .npz file.

    Args:
        path: the file.
        columns: the schema of each array, by name.
        others: the schema of arrays of any other name; None: there must be none.
        beside: names of other files in the archive, which are ignored.
        limit: bytes of all arrays together.

    Raises:
        FileError: for the first error; the message does not contain the file's name.
        OSError: when it cannot be read.
    """
    with _opened_archive(path) as archive:
        members = _members(archive, columns, others, beside, limit)
        return {name: _array(archive, info, name, columns.get(name, others)) for name, info in members.items()}


def read_members(path: str | os.PathLike[str], names: Collection[str], limit: int) -> dict[str, bytes]:
    """Read some of the files that a .zip file holds.

    Args:
        path: the file.
        names: of those that are read; all have to be there.
        limit: bytes of them together, and of the .zip file.

    Raises:
        FileError: for the first thing that is not as it should be; the message does not hold the file's name.
        OSError: when it cannot be read.
    """
    if os.path.getsize(path) > limit:
        raise FileError(f"longer than {limit >> 20} MiB")
    with _opened_archive(path) as archive:
        wanted = [info for info in archive.infolist() if info.filename in names]
        _check_members(wanted, limit)
        found = {info.filename: info for info in wanted}
        for name in names:
            if name not in found:
                raise FileError(f"there is no {name} in it")
        if len(found) < len(wanted):
            raise FileError("a name stands in it twice")
        return {name: archive.read(info) for name, info in found.items()}


@contextmanager
def _opened_archive(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    try:
        with open_file(path, regular=True) as raw:
            _check_end(raw)
            with zipfile.ZipFile(raw) as archive:
                yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise FileError(f"truncated or not a .{_suffix(path)} file ({error})") from None
    except (NotImplementedError, RuntimeError, UnicodeError, OverflowError, MemoryError) as error:
        raise FileError(f"not a .{_suffix(path)} file as programs write it ({error})") from None


def _suffix(path: str | os.PathLike[str]) -> str:
    return "npz" if os.fspath(path).endswith(".npz") else "zip"


def read_header(arrays: dict[str, np.ndarray]) -> Any:
    """Take the array `header` out of an archive's arrays and return the JSON document that it holds.

    Raises:
        FileError: when it is none.
    """
    try:
        return parse_json(arrays.pop("header").tobytes())
    except FileError as error:
        raise FileError(f"header: {error}") from None


def _check_end(raw: IO[bytes]) -> None:
    """Refuse a list of members that is too long, or of the 64-bit form, before it is read."""
    size = raw.seek(0, io.SEEK_END)
    raw.seek(max(0, size - END_SIZE - (1 << 16) - 20))
    tail = raw.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_SIZE:
        raise FileError("truncated or no archive (it has no list of members)")
    if tail[max(0, at - 20) : at].startswith(END_64) or size > UNPACKED_MAX:
        raise FileError("an archive of more than 4 GiB or 65,535 members")
    if (length := struct.unpack("<I", tail[at + 12 : at + 16])[0]) > DIRECTORY_MAX:
        raise FileError(f"its list of members is {length >> 20} MiB long")
    raw.seek(0)


def _members(
    archive: zipfile.ZipFile, columns: Mapping[str, Column], others: Column | None, beside: Collection[str], limit: int
) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in beside:
            continue
        name = info.filename.removesuffix(".npy")
        if name == info.filename or (name not in columns and others is None):
            raise FileError(f"unknown array {info.filename[:60]!r}{did_you_mean(name, columns)}")
        if name in members:
            raise FileError(f"{name} stands in it twice")
        members[name] = info
    _check_members(list(members.values()), limit)
    for name, column in columns.items():
        if name not in members and not column.optional:
            raise FileError(f"there is no {name} in it")
    return members


def _check_members(members: Sequence[zipfile.ZipInfo], limit: int) -> None:
    """Refuse, before anything is unpacked, what cannot or must not be."""
    if len(members) > MEMBERS_MAX:
        raise FileError(f"{len(members)} arrays; at most {MEMBERS_MAX} are read")
    for info in members:
        name = info.filename.removesuffix(".npy")
        if info.flag_bits & ENCRYPTED:
            raise FileError(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(f"{name} is packed by a method that NumPy does not use")
    if (total := sum(info.file_size for info in members)) > limit:
        raise FileError(f"{total >> 20} MiB unpacked; at most {limit >> 20} MiB are read")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, column: Column | None) -> np.ndarray:
    assert column is not None
    with archive.open(info) as member:
        shape, fortran, dtype, start = _npy_header(member, name)
        if dtype.str not in column.kinds and dtype.kind not in column.kinds:
            raise FileError(f"{name} does not fit: it holds {dtype}, not {' or '.join(column.kinds)}")
        expected = shape if column.shape is None else column.shape
        if len(shape) != len(expected) or any(w is not None and n != w for n, w in zip(shape, expected, strict=True)):
            shape_text = str(tuple("any" if w is None else w for w in expected)).replace("'", "")
            raise FileError(f"{name} is of shape {shape}, not {shape_text}")
        length = math.prod(shape) * dtype.itemsize
        if length != info.file_size - start:
            raise FileError(f"{name} declares {length} bytes and has {info.file_size - start}")
        data = member.read(length)
    if len(data) != length:
        raise FileError(f"{name} is truncated")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _npy_header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, order, dtype and where the data begins."""
    start = member.read(8)
    size = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}.get(start)
    if size is None:
        raise FileError(f"{name} is no array")
    prefix = member.read(size)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < size or length > HEADER_MAX:
        raise FileError(f"the header of {name} is longer than {HEADER_MAX} bytes")
    text = io.BytesIO(prefix + member.read(length))
    reader = np.lib.format.read_array_header_1_0 if size == 2 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = reader(text, max_header_size=HEADER_MAX)
    except (ValueError, TypeError, SyntaxError, KeyError, RecursionError, MemoryError, tokenize.TokenError):
        raise FileError(f"the header of {name} is none of NumPy's") from None
    if dtype.hasobject or dtype.names or dtype.subdtype or not dtype.itemsize or any(n < 0 for n in shape):
        raise FileError(f"{name} holds {dtype}, not plain numbers")
    return shape, fortran, dtype, 8 + size + length
