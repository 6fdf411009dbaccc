"""A trained policy as data: the weights of its network in a .npz without pickles, run with NumPy alone."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from thp_agents.policy import Policy, PolicyError
from thp_agents.view import View
from thp_env.envs.actions import ACTIONS, ORDER_MASKS
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS
from thp_env.files import whole_file

FORMAT = "thp_env policy 1"
FIELDS = [*SYSTEM_FIELDS, *VMA_FIELDS]
"""Order of the inputs: as `gymnasium.wrappers.FlattenObservation` puts them."""


class MlpPolicy(Policy):
    """A multilayer perceptron with tanh that picks the best action that can have an effect.

    Args:
        layers: (weight of shape (out, in), bias) of each layer, float32; the last one gives a value an action.
        meta: how it was trained: command, seed, steps, version.
    """

    kind = "learned"

    def __init__(self, layers: list[tuple[np.ndarray, np.ndarray]], meta: dict[str, Any]) -> None:
        """Take over the weights."""
        self.layers, self.meta = layers, meta
        self.name = str(meta.get("name", "learned"))
        self.source = str(meta.get("command", "trained"))
        self.default = str(meta.get("default", "4K"))

    def decide(self, observation: dict[str, np.ndarray], view: View) -> int:
        """Return the action of the highest value among those that can have an effect."""
        x = np.concatenate([observation["system"], observation["vma"]])
        for weight, bias in self.layers[:-1]:
            x = np.tanh(weight @ x + bias)
        weight, bias = self.layers[-1]
        return int(np.argmax(np.where(view.masks != 0, weight @ x + bias, -np.inf)))


def save_policy(policy: MlpPolicy, path: str | os.PathLike) -> None:
    """Write a policy; the file appears whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    path = Path(path)
    header = {"format": FORMAT, "fields": FIELDS, "actions": ACTIONS, "layers": len(policy.layers), "meta": policy.meta}
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for i, (weight, bias) in enumerate(policy.layers):
        arrays |= {f"weight{i}": weight.astype(np.float32), f"bias{i}": bias.astype(np.float32)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None


def load_policy(path: str | os.PathLike) -> MlpPolicy:
    """Read a policy; it is called as its file, so that several can stand in one table.

    Raises:
        PolicyError: when the file is missing, damaged, foreign, or made for other observations or actions.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if header.get("format") != FORMAT:
                raise PolicyError(f"{path}: not a policy of this version")
            if header["fields"] != FIELDS or header["actions"] != list(ACTIONS):
                raise PolicyError(f"{path}: made for other observations or actions; train it again")
            layers = [
                (file[f"weight{i}"].astype(np.float32), file[f"bias{i}"].astype(np.float32))
                for i in range(int(header["layers"]))
            ]
            meta = dict(header["meta"])
            if meta["default"] not in ORDER_MASKS:
                raise PolicyError(f"{path}: its default {meta['default']!r} is no name of sizes")
    except PolicyError:
        raise
    except FileNotFoundError:
        raise PolicyError(f"{path}: no such file") from None
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError) as error:
        raise PolicyError(f"{path}: not a policy file ({error})") from None
    width = len(FIELDS)
    for weight, bias in layers:
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise PolicyError(f"{path}: its layers do not fit together")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise PolicyError(f"{path}: holds weights that are not finite")
        width = len(bias)
    if width != len(ACTIONS) or not layers:
        raise PolicyError(f"{path}: its last layer does not give one value an action")
    return MlpPolicy(layers, meta | {"name": Path(path).stem})
