"""The machines of a vector environment one by one, with the attributes and methods of the single environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thp_env.envs.vector import ThpVectorEnv

ATTRIBUTES: dict[str, Callable[[ThpVectorEnv, int], Any]] = {
    "action_space": lambda envs, i: envs.single_action_space,
    "machine": lambda envs, i: None if envs.task.workload[i] is None else envs.task.batch[i],
    "metadata": lambda envs, i: envs.metadata,
    "observation_space": lambda envs, i: envs.single_observation_space,
    "render_mode": lambda envs, i: envs.render_mode,
    "reward_terms": lambda envs, i: envs.task.terms(i),
    "spec": lambda envs, i: envs.spec,
    "workload": lambda envs, i: envs.task.workload[i],
}
"""What `get_attr` knows, from the vector environment and the number of a machine."""

METHODS: dict[str, Callable[..., Sequence[Any]]] = {
    "action_masks": lambda envs: envs.action_masks(),
    "clone_state": lambda envs: envs.clone_state(),
    "render": lambda envs: envs.render() or [None] * envs.num_envs,
    "set_workload": lambda envs, **changes: [envs.set_workload(**changes)] * envs.num_envs,
}
"""What `call` knows besides, each with a result for every machine."""


def get_attr(envs: ThpVectorEnv, name: str) -> tuple[Any, ...]:
    """Return an attribute of the single environment for each machine.

    Raises:
        AttributeError: naming what there is.
    """
    if name not in ATTRIBUTES:
        raise AttributeError(f"machines have no {name!r}: there are {', '.join([*ATTRIBUTES, *METHODS])}")
    return tuple(ATTRIBUTES[name](envs, i) for i in range(envs.num_envs))


def call(envs: ThpVectorEnv, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Return what a method of the single environment returns for each machine, or an attribute.

    Raises:
        AttributeError: naming what there is.
    """
    return tuple(METHODS[name](envs, *args, **kwargs)) if name in METHODS else get_attr(envs, name)
