"""Archives that are almost right: what strangers send."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def with_header(path: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write an archive anew with another JSON document."""
    arrays = arrays_of(path)
    header = json.loads(arrays["header"].tobytes())
    change(header)
    return with_text(path, out, json.dumps(header))


def with_text(path: Path, out: Path, header: str) -> Path:
    """Write an archive anew with another text as its JSON document."""
    np.savez_compressed(out, **arrays_of(path) | {"header": np.frombuffer(header.encode(), np.uint8)})
    return out


def with_arrays(path: Path, out: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Write an archive anew with other arrays."""
    arrays = arrays_of(path)
    change(arrays)
    np.savez_compressed(out, **arrays)
    return out


def encrypted(path: Path, out: Path) -> Path:
    """Set the mark of encryption on every member."""
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 4)
    out.write_bytes(data)
    return out


def twice(path: Path, out: Path) -> Path:
    """Add a member a second time."""
    out.write_bytes(path.read_bytes())
    with zipfile.ZipFile(out) as archive:
        name = archive.namelist()[0]
        data = archive.read(name)
    other = name[:-5] + "#.npy"
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(other, data)
    out.write_bytes(out.read_bytes().replace(other.encode(), name.encode()))
    return out


def declaring(shape: tuple[int, ...], out: Path, name: str = "header", packed: bytes = b"") -> Path:
    """Write an archive of one array whose header declares a shape, whatever there is of it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + packed)
    return out


def promising(path: Path, out: Path, size: int) -> Path:
    """Let the list of members promise more than there is."""
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", size)
    out.write_bytes(data)
    return out
