"""Errors of importers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thp_env.reading import FileError, one_line
from thp_workloads.recording.errors import RecordingError


class ImportingError(ValueError):
    """A log that cannot be imported: says file, line and reason."""

    @classmethod
    def at(cls, path: Path, line: int, reason: str, text: str = "") -> ImportingError:
        """Return the error of a line, numbered from 1."""
        quote = f": {one_line(text.strip()[:80])}" if text.strip() else ""
        return cls(f"{path}:{line}: {reason}{quote}")


@contextmanager
def importing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors while a log is read into an `ImportingError`; places are written as FILE:LINE."""
    try:
        yield
    except OSError as error:
        raise ImportingError(f"cannot read {path}: {error.strerror or error}") from None
    except RecordingError as error:
        raise ImportingError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise ImportingError(f"{path}: not a text in UTF-8") from None
    except FileError as error:
        place = re.fullmatch(r"line (\d+)(?:, column \d+)?: (.*)", str(error), re.DOTALL)
        raise ImportingError(f"{path}:{place[1]}: {place[2]}" if place else f"{path}: {error}") from None
