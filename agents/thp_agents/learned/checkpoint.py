"""Checkpoints: written whole or not at all, with the identity of their training; and one training for each folder."""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from thp_agents.learned.config import AgentConfig
from thp_agents.policy import PolicyError
from thp_env.archive import read_members
from thp_env.files import whole_file
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.reading import UNPACKED_MAX, FileError, parse_json

MEMBER = "training.json"
"""In the checkpoint, which is a zip file whatever wrote it."""

MAY_CHANGE = ("steps", "checkpoint")
"""Fields of a configuration that say how long and how often, not what is trained."""


def save_checkpoint(model: Any, path: Path, config: AgentConfig) -> None:
    """Write a model and the identity of its training.

    Raises:
        PolicyError: when it cannot be written.
    """
    try:
        with whole_file(path) as file:
            model.save(file)
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr(MEMBER, json.dumps(identity(config)))
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None


def identity(config: AgentConfig) -> dict[str, Any]:
    """Return the identity of a training, which has to be the same to continue it, as JSON."""
    fields = {name: value for name, value in config.as_dict().items() if name not in MAY_CHANGE}
    return json.loads(json.dumps({"behaviour": BEHAVIOUR, **fields}))


def check_checkpoint(path: Path, config: AgentConfig) -> None:
    """Refuse to continue from the checkpoint of another training.

    Raises:
        PolicyError: when there is none, or naming the first difference.
    """
    if not path.exists():
        raise PolicyError(f"nothing to resume: there is no {path}")
    try:
        was = parse_json(read_members(path, [MEMBER], UNPACKED_MAX)[MEMBER])
    except (OSError, FileError) as error:
        raise PolicyError(f"{path}: not a checkpoint of this agent ({error}); train without --resume") from None
    if difference := _difference(was, identity(config)):
        raise PolicyError(f"{path}: the checkpoint of another training: {difference}; train without --resume, "
                          "or name another --folder")  # fmt: skip


def _difference(was: Any, now: Any, name: str = "") -> str:
    """Return the first difference in words; "" when there is none."""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return "" if was == now else f"{name} was {_short(was)} and is {_short(now)}"
    for key in dict.fromkeys([*now, *was]):
        if different := _difference(was.get(key), now.get(key), f"{name}.{key}" if name else key):
            return different
    return ""


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def seed_after(seed: int, decisions: int) -> int:
    """Return the seed for a training that continues, so that it does not draw its first episodes again."""
    return int(np.random.SeedSequence([seed, decisions]).generate_state(1)[0])


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder for as long as this process lives, or the block lasts.

    Raises:
        PolicyError: when there is one already.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PolicyError(f"{folder}: another training is running there; name another --folder") from None
        yield
    finally:
        os.close(number)
