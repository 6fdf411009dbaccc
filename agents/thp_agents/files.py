"""Files that a command writes: whole or not at all, with one clear line where that is impossible."""

from __future__ import annotations

import os
from pathlib import Path

from thp_agents.policy import PolicyError
from thp_env.files import check_writable, whole_file


def writable(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is to be written.

    Raises:
        PolicyError: when there is no folder to write it to, or what is there can be neither replaced nor written to.
    """
    try:
        check_writable(path)
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None
    return Path(path)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    path = writable(path)
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    write_bytes(path, text.encode())
