"""Saved trajectories: what an episode did, with all its counters, to be replayed and verified.

A file is a compressed .npz without pickles. It names the environment, its arguments and the seed, so that whoever
has the same version of the simulator can run it again; `thp-env replay FILE` says whether the same happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, SupportsFloat, TypedDict

import gymnasium
import numpy as np

from thp_env.archive import HEADER, Column, read_archive, read_header
from thp_env.envs.arguments import order_mask
from thp_env.envs.renamed import current_names
from thp_env.files import whole_file
from thp_env.machine import Machine, layout
from thp_env.machine.arrays import Floats, Ints
from thp_env.machine.counters import MTHP_STATS, TIMES, VM_EVENTS
from thp_env.reading import FileError, reading
from thp_env.registration import ENVIRONMENTS, check_arguments
from thp_env.schema import U64, Bounds, fit
from thp_env.traces.npz import checksum
from thp_env.workload import SIZES, SURROUNDINGS, excerpt

FORMAT = "thp_env trajectory 1"

COUNTERS: tuple[str, ...] = (
    *VM_EVENTS,
    *(f"{stat} of order {order}" for order in range(layout.PMD_ORDER + 1) for stat in MTHP_STATS),
    *(f"time of {kind}" for kind in TIMES),
    "clock", "operation", "step of the operation",
)  # fmt: skip
"""What is noted after every step, int64; times are picoseconds."""

COLUMNS = {
    "header": HEADER, "rewards": Column(("<f8",), (None,)), "counters": Column(("<i8",), (None, None)),
    "actions": Column(("i", "u", "f"), None),
}  # fmt: skip
"""The arrays of a file. Actions are floats where there is none at all."""


class Pcg64State(TypedDict):
    """The state of NumPy's PCG64, two numbers of 128 bits."""

    state: Annotated[int, Bounds(0, (1 << 128) - 1)]
    inc: Annotated[int, Bounds(0, (1 << 128) - 1)]


class Rng(TypedDict):
    """The state of a generator."""

    bit_generator: Literal["PCG64"]
    state: Pcg64State
    has_uint32: Annotated[int, Bounds(0, 1)]
    uinteger: Annotated[int, Bounds(0, (1 << 32) - 1)]


class Options(TypedDict, total=False):
    """Options of a reset."""

    default_sizes: str
    workload: str | list[str]
    size: Literal[SIZES] | None  # type: ignore[valid-type]
    surroundings: Literal[SURROUNDINGS] | None  # type: ignore[valid-type]
    weights: list[float] | None


class Reset(TypedDict, total=False):
    """How an episode began."""

    seed: U64
    rng: Rng
    options: Options


class Header(TypedDict):
    """The JSON document of a file."""

    format: str
    counters: list[str]
    env_id: Literal[tuple(ENVIRONMENTS)]  # type: ignore[valid-type]
    arguments: dict[str, Any]
    reset: Reset
    workload: str
    program: str
    version: str
    ended: bool


REWARD_TOLERANCE = 1e-9
"""Relative: integers must be the same, a float may differ in its last digits on another machine."""


class TrajectoryError(ValueError):
    """A trajectory that cannot be recorded, written or read."""


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    Attributes:
        env_id: as registered.
        arguments: of `gymnasium.make`; what JSON can hold.
        reset: `seed` or, of an episode that went on with the stream, `rng` (the generator's state); `options`.
        workload: name of what was drawn; program: checksum of its trace program.
        version: of thp_env.
        actions: one a step.
        rewards: float64, one a step.
        counters: int64, shape (steps + 1, `COUNTERS`), the first row after the reset.
        ended: whether the episode terminated with the last step.
    """

    env_id: str
    arguments: dict[str, Any]
    reset: dict[str, Any]
    workload: str
    program: str
    version: str
    actions: Ints
    rewards: Floats
    counters: Ints
    ended: bool

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all.

        Raises:
            TrajectoryError: when it cannot be written.
        """
        header = {name: getattr(self, name) for name in _TEXT} | {"format": FORMAT, "counters": COUNTERS}
        arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), "actions": self.actions,
                  "rewards": self.rewards, "counters": np.diff(self.counters, axis=0, prepend=0)}  # fmt: skip
        try:
            with whole_file(path) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise TrajectoryError(f"cannot write {path}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trajectory:
        """Read a file.

        Raises:
            TrajectoryError: when it is missing, damaged or something else.
        """
        with reading(path, TrajectoryError, "a trajectory"):
            arrays = read_archive(path, COLUMNS)
            header = read_header(arrays)
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise TrajectoryError(f"{path}: not a trajectory of this version")
            header["arguments"] = current_names(header.get("arguments"))
            if isinstance(header.get("reset"), dict) and "options" in header["reset"]:
                header["reset"]["options"] = current_names(header["reset"]["options"])
            fit(header, Header, "header")
            check_arguments(header["env_id"], header["arguments"], "header.arguments")
            if "default_sizes" in (options := header["reset"].get("options", {})):
                try:
                    order_mask("default_sizes", options["default_sizes"])
                except ValueError as error:
                    raise FileError(f"header.reset.options: {error}") from None
            if ("seed" in header["reset"]) == ("rng" in header["reset"]):
                raise FileError("header.reset: there must be a seed or an rng, and not both")
            if header["counters"] != list(COUNTERS):
                other = header["version"]
                raise TrajectoryError(f"{path}: thp_env {other}, which recorded it, counted other things")
            if not np.isfinite(arrays["rewards"]).all():
                raise FileError("a reward is not finite")
            trajectory = cls(
                **{name: header[name] for name in _TEXT}, actions=arrays["actions"], rewards=arrays["rewards"],
                counters=np.cumsum(arrays["counters"], axis=0),
            )  # fmt: skip
            _check(trajectory)
        return trajectory


_TEXT = ("env_id", "arguments", "reset", "workload", "program", "version", "ended")


def _check(t: Trajectory) -> None:
    if not 1 <= t.actions.ndim <= 2:
        raise FileError(f"actions of {t.actions.ndim} axes")
    if len(t.actions) != len(t.rewards):
        raise FileError(f"{len(t.actions)} actions and {len(t.rewards)} rewards")
    if t.counters.shape != (len(t.rewards) + 1, len(COUNTERS)):
        raise FileError(f"counters of shape {t.counters.shape} and {len(t.rewards)} steps")


def counters_of(machine: Machine) -> Ints:
    """Return the `COUNTERS` of a machine, int64."""
    c = machine.counters
    return np.concatenate([c.vm, c.mthp.ravel(), c.times, [c.clock_ps, *machine.position]]).astype(np.int64)


class RecordTrajectory(gymnasium.Wrapper):
    """Saves every episode as `FOLDER/NAME-0.npz`, `NAME-1.npz` and so on.

    Wrap the environment in this first: what other wrappers change of actions and rewards is not recorded. An
    episode is saved when it ends, and what has run of it at the next `reset` and at `close`. Saved states have what
    was recorded so far, so that a trajectory is the way from the reset to where it ends, whatever was tried beside it.

    Args:
        env: one of thp_env's, made by `gymnasium.make`.
        folder: for the files; made if it is not there.
        name: first part of the files' names.

    Raises:
        TrajectoryError: when its arguments cannot be written down, or the folder cannot be made.
    """

    def __init__(self, env: gymnasium.Env, folder: str | os.PathLike[str], name: str = "trajectory") -> None:
        """Wrap an environment."""
        super().__init__(env)
        spec = env.unwrapped.spec
        if spec is None or not hasattr(env.unwrapped, "machine"):
            raise TrajectoryError(f"{env} cannot be recorded: make one of thp_env's with gymnasium.make")
        self._env_id = spec.id
        self._arguments = {k: v for k, v in spec.kwargs.items() if k != "render_mode"}
        for key, value in self._arguments.items():
            if not _is_json(value):
                raise TrajectoryError(f"{key}={excerpt(value)} cannot be written down: give a name or a file instead")
        self.folder, self.name = Path(folder), name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrajectoryError(f"cannot write to {folder}: {error.strerror or error}") from None
        self.saved: list[Path] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._counters: list[np.ndarray] = []
        self._begin: dict[str, Any] = {}
        env.unwrapped.task.accounts[self.key] = self  # type: ignore[attr-defined]

    key = "RecordTrajectory"
    """What saved states call the record."""

    def clone_state(self, i: int) -> tuple[dict[str, Any], list, list, list]:
        """Return what was recorded of the episode."""
        return dict(self._begin), list(self._actions), list(self._rewards), list(self._counters)

    def restore_state(self, i: int, state: tuple[dict[str, Any], list, list, list]) -> None:
        """Go back to what `clone_state` returned."""
        begin, actions, rewards, counters = state
        self._begin, self._actions = dict(begin), list(actions)
        self._rewards, self._counters = list(rewards), list(counters)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Save what was left unfinished, and begin a new trajectory."""
        self._save(ended=False)
        drawn_from = self.env.unwrapped.task.drawn_from(options or {})  # type: ignore[attr-defined]
        for key, value in drawn_from.items():
            if not _is_json(value):
                raise TrajectoryError(f"{key}={excerpt(value)} cannot be written down: give a name or a file instead")
        begin: dict[str, Any] = {"seed": seed}
        if seed is None:
            begin = {"rng": self.env.unwrapped.np_random.bit_generator.state}
        if drawn_from:
            begin["options"] = drawn_from
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin = begin
        self._actions, self._rewards, self._counters = [], [], [counters_of(self._machine)]
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and note what happened."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(np.array(action))
        self._rewards.append(float(reward))
        self._counters.append(counters_of(self._machine))
        if terminated or truncated:
            self._save(ended=terminated)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Save what was left unfinished, and close."""
        self._save(ended=False)
        super().close()

    @property
    def _machine(self) -> Machine:
        return self.env.unwrapped.machine  # type: ignore[attr-defined]

    def _save(self, ended: bool) -> None:
        if not self._counters:
            return
        from thp_env import __version__

        path = self.folder / f"{self.name}-{len(self.saved)}.npz"
        Trajectory(
            self._env_id, self._arguments, self._begin, self.env.unwrapped.workload.name,  # type: ignore[attr-defined]
            checksum(self._machine.program), __version__, np.array(self._actions),
            np.array(self._rewards), np.array(self._counters), ended,
        ).save(path)  # fmt: skip
        self.saved.append(path)
        self._counters = []


def steps(t: Trajectory) -> Iterator[tuple[gymnasium.Env, Any, float, dict[str, Any]]]:
    """Run a trajectory again: (environment, observation, reward, info) after the reset and after every step.

    Raises:
        TrajectoryError: when the environment cannot be made.
    """
    try:
        env = gymnasium.make(t.env_id, disable_env_checker=True, **t.arguments)
    except (gymnasium.error.Error, ValueError, TypeError) as error:
        raise TrajectoryError(f"{t.env_id} cannot be made as it was: {error}") from None
    try:
        if "rng" in t.reset:
            try:
                env.unwrapped.np_random = rng = np.random.Generator(np.random.PCG64())
                rng.bit_generator.state = t.reset["rng"]
            except (ValueError, TypeError, KeyError) as error:
                raise TrajectoryError(f"its random state is none: {error}") from None
        observation, info = env.reset(seed=t.reset.get("seed"), options=t.reset.get("options"))
        yield env, observation, 0.0, info
        over = False
        for at, action in enumerate(t.actions):
            if over:
                raise TrajectoryError(f"step {at + 1}: the episode has ended before it")
            try:
                observation, reward, terminated, truncated, info = env.step(action)
            except (ValueError, gymnasium.error.Error) as error:
                raise TrajectoryError(f"step {at + 1}: {error}") from None
            over = terminated or truncated
            yield env, observation, float(reward), info
        if over != t.ended:
            raise TrajectoryError(f"step {len(t.actions)}: the episode {'ended' if over else 'goes on'}, and did not")
    finally:
        env.close()


def replay(t: Trajectory) -> str | None:
    """Run a trajectory again; return the first difference in one line, None when there is none."""
    try:
        for at, (env, _, reward, _) in enumerate(steps(t)):
            machine: Machine = env.unwrapped.machine  # type: ignore[attr-defined]
            if at == 0 and checksum(machine.program) != t.program:
                return f"workload {t.workload} draws another program now"
            now = counters_of(machine)
            if (different := np.flatnonzero(now != t.counters[at])).size:
                i = int(different[0])
                return f"step {at}: {COUNTERS[i]} is {now[i]}, was {t.counters[at, i]}"
            if at and not np.isclose(reward, t.rewards[at - 1], rtol=REWARD_TOLERANCE, atol=0.0):
                return f"step {at}: the reward is {reward!r}, was {float(t.rewards[at - 1])!r}"
    except TrajectoryError as error:
        return str(error)
    return None


def _is_json(value: Any) -> bool:
    value = list(value) if isinstance(value, tuple) else value
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False
