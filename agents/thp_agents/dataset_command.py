"""`thp-env dataset`: episodes of policies as Minari datasets, each with a datasheet."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import thp_env
from thp_agents.dataset import ARGUMENTS, BEST, Episode, Setting, best_heuristic, datasheet, fitting, record
from thp_agents.files import write_text
from thp_agents.policy import Policy, PolicyError
from thp_env.workload import find


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command; nothing is written before every policy has played."""
    if args.env not in thp_env.ENVIRONMENTS:
        raise PolicyError(f"unknown environment {args.env!r}: one of {', '.join(thp_env.ENVIRONMENTS)}")
    _needs_minari()
    for name in args.workloads:
        find(name)
    setting = Setting(args.env, tuple(args.workloads), args.size, args.episodes, args.seed, ARGUMENTS.get(args.env, {}))
    setting.make()
    prefix = args.name or f"thp_env/{_kebab(args.env)}"
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        os.environ["MINARI_DATASETS_PATH"] = str(args.folder.resolve())
    by_policy: dict[str, tuple[Policy, list[Episode], list[str]]] = {}
    for spec in dict.fromkeys(args.policies):
        notes = []
        if spec == BEST:
            spec, costs = best_heuristic(setting)
            ranking = ", ".join(f"{name} {cost:.3f}" for name, cost in sorted(costs.items(), key=lambda item: item[1]))
            notes = [f"chosen by mean ns per access on the first episodes: {ranking}"]
        policy = fitting(spec, setting)
        dataset_id = f"{prefix}/{_slug(BEST if notes else policy.name)}-v0"
        if dataset_id in by_policy:
            raise PolicyError(f"two policies would make {dataset_id}: leave one out")
        by_policy[dataset_id] = (policy, record(policy, setting), notes)
    _refuse_known(list(by_policy))
    for dataset_id, (policy, episodes, notes) in by_policy.items():
        _write(dataset_id, policy, episodes, notes, setting, args.author, command)
    return 0


def _kebab(env_id: str) -> str:
    name = env_id.partition("/")[2].rpartition("-v")[0]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _needs_minari() -> None:
    for module in ("minari", "h5py"):  # before anything is played
        import_module(module)


def _refuse_known(ids: Sequence[str]) -> None:
    import minari

    for dataset_id in ids:
        if dataset_id in minari.list_local_datasets():
            raise PolicyError(f"there is a dataset {dataset_id} already: choose another --name, or delete it with "
                              f"minari delete {dataset_id}")  # fmt: skip


def _write(dataset_id: str, policy: Policy, episodes: list[Episode], notes: list[str], setting: Setting, author: str,
           command: str) -> None:  # fmt: skip
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.storage import get_dataset_path

    buffer = []
    for i, e in enumerate(episodes):
        n = len(e.actions)
        buffer.append(EpisodeBuffer(
            id=i, seed=e.seed, actions=list(e.actions), rewards=list(e.rewards),
            observations={key: [observation[key] for observation in e.observations] for key in e.observations[0]},
            infos={"elapsed_ns": list(e.elapsed_ns), "action_mask": list(e.masks)},
            terminations=[e.terminated and k == n - 1 for k in range(n)],
            truncations=[not e.terminated and k == n - 1 for k in range(n)],
        ))  # fmt: skip
    sheet = datasheet(dataset_id, policy, setting, episodes, command, notes)
    made_by = f"thp-env=={thp_env.__version__}"
    env = setting.make()
    path = get_dataset_path(dataset_id) / "DATASHEET.md"
    with _whole_folder(path.parent):
        dataset = minari.create_dataset_from_buffers(
            dataset_id=dataset_id, buffer=buffer, env=env, eval_env=env, algorithm_name=policy.name, author=author,
            author_email="not given", code_permalink=f"{made_by}, {command}", description=sheet, requirements=[made_by],
        )  # fmt: skip
        write_text(path, sheet)
    print(f"{dataset_id}: {dataset.total_episodes} episodes, {dataset.total_steps} steps; {path}")


@contextmanager
def _whole_folder(path: Path) -> Iterator[None]:
    """Remove a folder, and those above that were made for it, when it cannot be filled; say why.

    Raises:
        PolicyError: naming it.
    """
    new_folder = path
    while not new_folder.parent.exists():
        new_folder = new_folder.parent
    try:
        yield
    except BaseException as error:
        shutil.rmtree(new_folder, ignore_errors=True)
        # HDF5 tells of what the system refuses in the words of a RuntimeError, or of an OSError without a number.
        number = re.search(r"errno = (\d+)", str(error))
        if number:
            raise PolicyError(f"cannot write {path}: {os.strerror(int(number[1]))}") from None
        if isinstance(error, OSError):
            raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None
        raise
