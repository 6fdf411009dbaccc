"""A saved model of Stable-Baselines3 or sb3-contrib as a policy: `sb3:model.zip`.

No code from such a file is run, so files of strangers can be evaluated. A model's zip and a file of VecNormalize
contain pickles, which can run any code. Here weights are read with `torch.load(weights_only=True)`, the zip's JSON only
as text, and a file of VecNormalize by an unpickler that accepts only numbers and arrays.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, flatdim

import thp_env
from thp_agents.learned.networks import Mlp, flat
from thp_agents.policy import Policy, PolicyError
from thp_env.archive import read_members
from thp_env.envs.actions import ACTION_SETS
from thp_env.reading import FileError, open_file, parse_json, reading

ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu"}
"""Of PyTorch's activations those that can be run here, and their names in `networks.ACTIVATIONS`."""

LARGEST = 256 << 20
"""Bytes of a file that are read, packed or not."""

STATISTICS_MAX = 4 << 20
"""Bytes of a file of VecNormalize."""

PARTS = ("data", "policy.pth", "_stable_baselines3_version")
"""Of a model's zip what is read."""


class Statistics(NamedTuple):
    """The normalisation of observations by VecNormalize, for each key; flat observations have the key ""."""

    mean: dict[str, np.ndarray]
    var: dict[str, np.ndarray]
    epsilon: float
    clip: float

    def normalised(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return an observation, flat, as the model saw it in training."""
        if "" in self.mean:
            return self._scaled("", flat(observation)).astype(np.float32)
        scaled = {k: self._scaled(k, v) if k in self.mean else v for k, v in observation.items()}
        return flat(scaled)

    def _scaled(self, key: str, values: np.ndarray) -> np.ndarray:
        scaled = (values - self.mean[key]) / np.sqrt(self.var[key] + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip)


class SB3Policy(Policy):
    """Takes the same actions as the model's `predict(deterministic=True)`.

    Args:
        name: of the policy.
        source: its origin.
        network: returns a value for each action.
        environment: id and arguments of the environment that its spaces fit.
        masked: whether it was trained with masks.
        statistics: of VecNormalize; None: no normalisation.
        digest: of its files.
    """

    kind = "learned"

    def __init__(
        self, name: str, source: str, network: Mlp, environment: tuple[str, dict[str, Any]], masked: bool,
        statistics: Statistics | None, digest: str,
    ) -> None:  # fmt: skip
        """Take over the network."""
        self.name, self.source, self.network, self.masked = name, source, network, masked
        self.statistics, self.digest = statistics, digest
        self.environment, self.arguments = environment
        env = _make(self.environment, self.arguments)
        self.default_sizes = env.task.default_sizes  # type: ignore[attr-defined]
        space: Any = env.action_space
        self.parts = None if isinstance(space, Discrete) else np.cumsum(space.nvec)[:-1]

    def decide(self, observation: dict[str, np.ndarray], view: Any) -> Any:
        """Return the action of the highest value, one for each part of the action."""
        seen = self.statistics.normalised(observation) if self.statistics else flat(observation)
        values = self.network({"": seen})
        if self.masked:
            values = np.where(np.asarray(view.masks).reshape(-1) != 0, values, -np.inf)
        if self.parts is None:
            return int(values.argmax())
        return np.array([part.argmax() for part in np.split(values, self.parts)])


def load_sb3(files: str) -> SB3Policy:
    """Read a model, and the statistics of VecNormalize beside it.

    Args:
        files: the model's zip; "," and the statistics' file may follow. Without, STEM_vecnormalize.pkl, STEM.pkl,
            vecnormalize.pkl and STEM/vecnormalize.pkl (RL-Zoo) are looked for beside the model.

    Raises:
        PolicyError: when a file is missing, damaged, or holds a network that cannot be run here.
    """
    model, _, statistics_name = files.partition(",")
    path = Path(model)
    weights, data, version = _read(path)
    beside = [Path(statistics_name)] if statistics_name else [
        path.with_name(f"{path.stem}_vecnormalize.pkl"), path.with_suffix(".pkl"),
        path.with_name("vecnormalize.pkl"), path.parent / path.stem / "vecnormalize.pkl",
    ]  # fmt: skip
    statistics_path = next((p for p in beside if statistics_name or p.is_file()), None)
    statistics = _statistics(statistics_path) if statistics_path else None
    try:
        sizes = _action_sizes(data["action_space"])
        network = _network(weights, data, sum(sizes))
        environment = _environment(sizes, "nvec" in data["action_space"], network.shape[0])
        masked = "maskable" in str(data["policy_class"].get("__module__", ""))
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise PolicyError(f"{path}: {error if isinstance(error, ValueError) else 'not a model of Stable-Baselines3'}"
                          ) from None  # fmt: skip
    if statistics and sum(np.size(v) for v in statistics.mean.values()) > network.shape[0]:
        raise PolicyError(f"{statistics_path}: statistics of other observations than those of {path}")
    parts = [file.read_bytes() for file in (path, statistics_path) if file]
    source = f"Stable-Baselines3 {version}, {path.name}" + (f" with {statistics_path.name}" if statistics_path else "")
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:12]
    return SB3Policy(path.stem, source, network, environment, masked, statistics, digest)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise PolicyError("models of Stable-Baselines3 need torch: pip install 'thp-env[agents]'") from None
    with reading(path, PolicyError, "a model of Stable-Baselines3"):
        parts = read_members(path, PARTS, LARGEST)
        data = parse_json(parts["data"], finite=False)
        try:
            weights = _weights(parts["policy.pth"])
        except FileError:
            raise
        except Exception:  # torch raises whatever it finds
            raise FileError("policy.pth is damaged, or holds something else than weights") from None
    return weights, data, parts["_stable_baselines3_version"].decode(errors="replace").strip()


def _weights(saved: bytes) -> dict[str, np.ndarray]:
    """Read what torch.save wrote: a zip, whose records torch unpacks whatever their size; so may tensors be."""
    import torch

    with zipfile.ZipFile(io.BytesIO(saved)) as records:
        if sum(info.file_size for info in records.infolist()) > LARGEST:
            raise FileError(f"policy.pth: more than {LARGEST >> 20} MiB unpacked")
    with warnings.catch_warnings(action="ignore"):
        stored = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    if sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) > LARGEST:
        raise FileError(f"policy.pth: weights of more than {LARGEST >> 20} MiB")
    return {name: tensor.numpy() for name, tensor in stored.items()}


def _action_sizes(space: dict[str, Any]) -> list[int]:
    if "nvec" in space:
        return [int(n) for n in re.findall(r"\d+", str(space["nvec"]))]
    return [int(space["n"])]


def _network(weights: dict[str, np.ndarray], data: dict[str, Any], actions: int) -> Mlp:
    kwargs = data.get("policy_kwargs", {})
    if "mlp_extractor.value_net.0.weight" in weights or "action_net.weight" in weights:
        layers, usual = [*_layers(weights, "mlp_extractor.policy_net."), "action_net"], "Tanh"
    else:
        bodies = ("q_net.q_net.", "quantile_net.quantile_net.")
        body = next((name for name in bodies if f"{name}0.weight" in weights), "")
        layers, usual = _layers(weights, body) if body else [], "ReLU"
    prefixes = ("mlp_extractor.", "action_net.", "value_net.", "q_net", "quantile_net")
    if not layers or (foreign := [name for name in weights if not name.startswith(prefixes)]):
        what = f" ({foreign[0]})" if layers else ""
        raise ValueError(f"its network is no plain MLP of PPO, MaskablePPO, A2C, DQN or QR-DQN{what}: load it in a "
                         "policy of your own, as my_module:MyPolicy")  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    for i, layer in enumerate(layers):
        arrays |= {f"weight{i}": weights[f"{layer}.weight"], f"bias{i}": weights[f"{layer}.bias"]}
    last = len(layers) - 1
    outputs = len(arrays[f"bias{last}"])
    if any(name.startswith("quantile_net") for name in layers):  # the mean of the quantiles is linear in the layer
        for name in (f"weight{last}", f"bias{last}"):
            rows = arrays[name].reshape(outputs // actions, actions, *arrays[name].shape[1:])
            arrays[name] = rows.mean(0)
    elif outputs != actions:
        raise ValueError(f"its network has {outputs} outputs, and {actions} actions")
    activation_name = re.search(r"activation\.(\w+)'", str(kwargs.get("activation_fn", "")))
    activation = activation_name[1] if activation_name else usual
    if activation not in ACTIVATIONS:
        raise ValueError(f"its activation {activation} is none of {', '.join(ACTIVATIONS)}")
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("holds weights that are not finite numbers")
    return Mlp(arrays, ACTIVATIONS[activation])


def _layers(weights: dict[str, np.ndarray], body: str) -> list[str]:
    names = {name.rpartition(".")[0] for name in weights if name.startswith(body)}
    return sorted(names, key=lambda name: int(name.removeprefix(body)))


def _make(env_id: str, arguments: dict[str, Any]) -> gymnasium.Env:
    return gymnasium.make(env_id, disable_env_checker=True, **arguments).unwrapped


def _environment(sizes: list[int], several: bool, inputs: int) -> tuple[str, dict[str, Any]]:
    """Return the environment, with the arguments, whose spaces have these sizes."""
    ways: list[dict[str, Any]] = [{}, *({"interface": name} for name in ACTION_SETS if name != "orders"),
                                  {"hook": "address"}]  # fmt: skip
    variants = ways + [{"slots": len(sizes), **way} for way in ways]
    for env_id in thp_env.ENVIRONMENTS:
        for arguments in variants:
            try:
                env = _make(env_id, arguments)
            except (TypeError, ValueError):
                continue  # an argument that this one does not have
            space: Any = env.action_space
            counts = [int(space.n)] if isinstance(space, Discrete) else space.nvec.tolist()
            if (counts, not isinstance(space, Discrete), flatdim(env.observation_space)) == (sizes, several, inputs):
                return env_id, arguments
    raise ValueError(f"made for {inputs} numbers seen and actions {sizes}: no environment of this version has these")


# -- VecNormalize --------------------------------------------------------------------------------------


class _Inert:
    """Stands for an object of any class: it keeps its attributes and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take anything."""

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes."""
        if isinstance(state, dict):
            vars(self).update(state)

    def __call__(self, *arguments: Any, **named: Any) -> _Inert:
        """Return another that does nothing."""
        return _Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget it."""

    append = extend = add = __call__


class _Type:
    """Stands for a NumPy dtype of plain numbers."""

    def __init__(self, name: str, *arguments: Any) -> None:
        """Take its name, such as "f8"."""
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "fiub" or self.dtype.subdtype:
            raise ValueError(name)

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes."""
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a NumPy array, which gets what it holds after it has been made."""

    def __init__(self, *arguments: Any) -> None:
        """Make one that holds nothing."""
        self.values = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        """Take what it holds."""
        _, shape, kind, fortran, data = state
        self.values = _filled(data, kind, shape, "F" if fortran else "C").values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return it as an array."""
        return np.array(self.values, dtype)


def _filled(data: Any, kind: _Type, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
    return array


def _scalar(kind: _Type, data: Any) -> float:
    return np.frombuffer(data, kind.dtype)[0]


_KNOWN = {
    ("numpy", "dtype"): _Type, ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _filled, ("numpy._core.multiarray", "scalar"): _scalar,
}  # fmt: skip


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C makes room for whatever an index says
    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for NumPy's arrays, and for everything else a class that does nothing."""
        known = _KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        return known or type(str(name), (_Inert,), {})

    def _bytearray(self: Any) -> None:
        """Take an array of bytes, for which Python's own makes room before it has read it."""
        self.append(bytearray(self.read(struct.unpack("<Q", self.read(8))[0])))

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _bytearray}


def _statistics(path: Path) -> Statistics | None:
    with reading(path, PolicyError, "statistics that VecNormalize saved"):
        with open_file(path, regular=True) as file:
            data = file.read(STATISTICS_MAX + 1)
        if len(data) > STATISTICS_MAX:
            raise FileError(f"longer than {STATISTICS_MAX >> 20} MiB")
        try:
            return _unpickled(data)
        except Exception:  # a pickle can raise anything
            raise FileError("damaged") from None


def _unpickled(data: bytes) -> Statistics | None:
    kept = vars(_Unpickler(io.BytesIO(data)).load())
    if not kept.get("norm_obs", True):
        return None
    rms = kept["obs_rms"] if isinstance(kept["obs_rms"], dict) else {"": kept["obs_rms"]}
    mean = {str(key): np.asarray(value.mean, np.float64) for key, value in rms.items()}
    var = {str(key): np.asarray(value.var, np.float64) for key, value in rms.items()}
    epsilon, clip = float(kept["epsilon"]), float(kept["clip_obs"])
    for key, values in mean.items():
        fits = values.shape == var[key].shape and np.isfinite(values).all() and np.isfinite(var[key]).all()
        if not fits or not np.isfinite(epsilon) or (var[key] + epsilon <= 0).any() or not clip >= 0:
            raise ValueError(key)
    return Statistics(mean, var, epsilon, clip)
