"""What goes wrong while a log is imported."""

from __future__ import annotations

from pathlib import Path


class ImportingError(ValueError):
    """A log that cannot be imported: says file, line and reason."""

    @classmethod
    def at(cls, path: Path, line: int, reason: str, text: str = "") -> ImportingError:
        """Return the error of a line, numbered from 1."""
        shown = f": {text.strip()[:80]}" if text.strip() else ""
        return cls(f"{path}:{line}: {reason}{shown}")
