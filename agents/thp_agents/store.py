"""Results on disk, each with what decides it, so that work that was stopped goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from thp_agents.policy import PolicyError

_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Store:
    """A file with a line of JSON for each result: what made it, and what came out.

    A result is found again only by exactly what made it. Of several of the same, the last counts. Lines that are
    something else, or were cut off, do not count.

    Args:
        path: the file; None: results are kept in memory alone.
        fresh: what the file holds does not count; new results are added to it.

    Raises:
        PolicyError: when the file cannot be read or made, or is something else.
    """

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        """Read what is there."""
        self.path = path
        self._results: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        for line in _lines(path):
            if not fresh:
                with suppress(*_DAMAGED):
                    record = json.loads(line)
                    self._results[_key(record["made"])] = dict(record["result"])

    def get(self, made: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a result by what made it; None where there is none."""
        return self._results.get(_key(made))

    def add(self, made: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Keep a result, and write it at once.

        Raises:
            PolicyError: when the file cannot be written.
        """
        self._results[_key(made)] = dict(result)
        if self.path is None:
            return
        line = json.dumps({"made": dict(made), "result": dict(result)}).encode() + b"\n"
        try:
            _append(self.path, line)
        except OSError as error:
            raise PolicyError(f"cannot write {self.path}: {error.strerror or error}; what it holds is kept: "
                              "make room and run the same command again") from None  # fmt: skip


def _key(made: Mapping[str, Any]) -> str:
    return json.dumps(made, sort_keys=True)


def _lines(path: Path) -> list[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return []
        if not path.is_file():
            raise PolicyError(f"{path}: it is there and no file: results are kept in a file")
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read or made: {error.strerror or error}") from None
    if data and not data.startswith(b"{"):
        raise PolicyError(f"{path}: not a store of results; name another --store")
    return data.splitlines()


def _append(path: Path, line: bytes) -> None:
    """Write a line behind whatever is there, on a line of its own; of two writers one waits for the other."""
    with open(path, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            left = memoryview(line)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
