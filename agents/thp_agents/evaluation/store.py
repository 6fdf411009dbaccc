"""Results on disk, each with what decides it, so that work that was stopped goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thp_agents.policy import PolicyError
from thp_agents.records import json_digest
from thp_env.reading import CutOffError, FileError, lines, parse_json, reading


class Store:
    """A file with a line of JSON for each result: what made it, what came out, and a digest of both.

    A result is found again only by exactly what made it. Of several of the same, the last counts. Lines that were cut
    off do not count, nor do those of older versions, which have no digest.

    Args:
        path: the file; None: results are kept in memory alone.
        fresh: what the file holds does not count; new results are added to it.

    Raises:
        PolicyError: when the file cannot be read or made, or is something else, naming the line.
    """

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        """Read what is there."""
        self.path = path
        self._results: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        _make_folder(path)
        if path.exists() and not fresh:
            with reading(path, PolicyError, "a store of results"):
                self._results = {_key(provenance): result for provenance, result in _records(path)}

    def get(self, provenance: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a result by what made it; None where there is none."""
        return self._results.get(_key(provenance))

    def add(self, provenance: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Keep a result, and write it at once.

        Raises:
            PolicyError: when the file cannot be written.
        """
        self._results[_key(provenance)] = dict(result)
        if self.path is None:
            return
        record = {"made": dict(provenance), "result": dict(result)}
        line = json.dumps(record | {"digest": json_digest(record)}).encode() + b"\n"
        try:
            _append(self.path, line)
        except OSError as error:
            raise PolicyError(f"cannot write {self.path}: {error.strerror or error}; what it holds is kept: "
                              "make room and run the same command again") from None  # fmt: skip


def _key(provenance: Mapping[str, Any]) -> str:
    return json.dumps(provenance, sort_keys=True)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise PolicyError(f"{path}: it is there and no file: results are kept in a file")
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read or made: {error.strerror or error}") from None


def _records(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for number, line in lines(path):
        if number == 1 and not line.startswith("{"):
            raise FileError("name another --store")
        try:
            record = parse_json(line)
        except CutOffError:
            continue
        except FileError as error:
            raise FileError(f"line {number}: {error}") from None
        if isinstance(record, dict) and "version" in record:
            continue
        kinds = [type(record.get(part)) for part in ("made", "result")] if isinstance(record, dict) else []
        if kinds != [dict, dict]:
            raise FileError(f"line {number}: it does not say what was made of what; remove it, or name another --store")
        digest = record.pop("digest", None)
        if digest not in (None, json_digest(record)):
            raise FileError(f"line {number}: it was edited: its digest is another; remove it, or name another --store")
        if digest:
            yield record["made"], record["result"]


def _append(path: Path, line: bytes) -> None:
    """Write a line behind whatever is there, on a line of its own; of two writers one waits for the other."""
    with open(path, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            unwritten = memoryview(line)
            while unwritten:
                unwritten = unwritten[file.write(unwritten) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
