"""What a recording says of the command that was recorded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

RECORDER_VERSION = 2


def facts(command: Sequence[str], environment: Mapping[str, str], name: str | None, status: int) -> dict[str, Any]:
    """Return what a recording says of its origin."""
    return {
        "name": name or os.path.basename(command[0]),
        "source": "recording",
        "command": " ".join(command),
        "environment": dict(environment),
        "version": _version(command[0]),
        "exit_status": status,
        "recorder": RECORDER_VERSION,
        "valgrind": _version("valgrind"),
    }


def _version(command: str) -> str:
    """Return the first line that `command --version` prints if it names a version, or an empty string."""
    path = shutil.which(command)
    if path is None:
        return ""
    try:
        # A program that takes the word for the name of its output writes where nobody minds.
        with tempfile.TemporaryDirectory() as folder:
            answer = subprocess.run(
                [os.path.abspath(path), "--version"],
                capture_output=True,
                text=True,
                timeout=5,
                stdin=subprocess.DEVNULL,
                check=False,
                cwd=folder,
            )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    lines = (answer.stdout or answer.stderr).strip().splitlines()
    if answer.returncode or not lines or not re.search(r"\d\.\d", lines[0]):
        return ""
    return lines[0].strip()[:200]
