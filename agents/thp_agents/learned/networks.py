"""The networks of trained policies, run with NumPy alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

import numpy as np

from thp_agents.learned.hyperparameters import RENAMED

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0.0)}

NODES = ("feature", "threshold", "left", "right")
"""What files of trees hold of each node."""
EXACT = 1 << 24
"""Whole numbers up to here are exact in float32."""


class Network(Protocol):
    """Values of actions from an observation.

    Attributes:
        kind: as files name it.
        weights: arrays by name, float32.
        activation: a name of `ACTIVATIONS`.
    """

    kind: ClassVar[str]
    weights: dict[str, np.ndarray]
    activation: str

    @property
    def shape(self) -> tuple[int, int]:
        """Fields and actions."""
        ...

    def __call__(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return one value for each action, flat; for several slots, one slot after the other."""
        ...


def flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Return all fields of an observation, float32, in the order of the keys, as `FlattenObservation` puts them."""
    return np.concatenate([observation[key].reshape(-1) for key in sorted(observation)], dtype=np.float32)


class Mlp:
    """A multilayer perceptron over all fields, in the order of the keys.

    Args:
        weights: `weight0`, `bias0`, `weight1`, ... of shape (out, in) and (out,).
        activation: a name of `ACTIVATIONS`, after every layer but the last.
    """

    kind: ClassVar[str] = "mlp"

    def __init__(self, weights: dict[str, np.ndarray], activation: str = "tanh") -> None:
        """Take over the weights.

        Raises:
            ValueError: when they do not fit together.
        """
        self.weights, self.activation, self._apply = weights, activation, ACTIVATIONS[activation]
        self.layers = _layers(weights, max(1, len(weights) // 2))
        _chain(self.layers)

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return self.layers[0][0].shape[1], len(self.layers[-1][1])

    def __call__(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the last layer's values."""
        x = flat(observation)
        for weight, bias in self.layers[:-1]:
            x = self._apply(weight @ x + bias)
        weight, bias = self.layers[-1]
        return weight @ x + bias


class DeepSets:
    """The same small network for each VMA, with the mean of all embeddings as a further input (Zaheer et al., 2017).

    The order of the slots makes no difference, and their number is not part of the weights.

    Args:
        weights: of three layers: 0 from (VMA, system, other) to an embedding, 1 from (embedding, mean embedding), 2
            to the actions.
        activation: as of `Mlp`.
    """

    kind: ClassVar[str] = "deep_sets"

    def __init__(self, weights: dict[str, np.ndarray], activation: str = "tanh") -> None:
        """Take over the weights.

        Raises:
            ValueError: when they do not fit together.
        """
        self.weights, self.activation, self._apply = weights, activation, ACTIVATIONS[activation]
        self.embed, self.mix, self.head = _layers(weights, 3)
        _chain([self.embed])
        _chain([self.mix, self.head])
        if self.mix[0].shape[1] != 2 * len(self.embed[1]):
            raise ValueError("its layers do not fit together")

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs of one VMA, and its outputs."""
        return self.embed[0].shape[1], len(self.head[1])

    def __call__(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the values of every slot's actions."""
        vmas = observation["vmas"]
        shared = np.concatenate([observation["system"], observation["other"]])
        rows = np.concatenate([vmas, np.broadcast_to(shared, (len(vmas), len(shared)))], axis=1).astype(np.float32)
        embedded = self._apply(rows @ self.embed[0].T + self.embed[1]) * observation["present"][:, None]
        mean = np.broadcast_to(embedded.mean(0), embedded.shape)
        mixed = self._apply(np.concatenate([embedded, mean], axis=1) @ self.mix[0].T + self.mix[1])
        return (mixed @ self.head[0].T + self.head[1]).reshape(-1)


class Forest:
    """Binary decision trees; the values are the lower confidence bound of theirs: mean - `lcb_factor` times their
    standard deviation.

    Args:
        weights: `inputs`, shape (1,), the number of fields; of each node `feature` (-1 at a leaf), `threshold`,
            `left` (taken where field <= threshold) and `right`, children after their parents; `values`, shape
            (nodes, actions), used at leaves; `roots`, the first node of each tree, where there are several; and
            `lcb_factor`, shape (1,), where it is not 0.
        activation: has no meaning here; files of every kind have one.
    """

    kind: ClassVar[str] = "forest"

    def __init__(self, weights: dict[str, np.ndarray], activation: str = "relu") -> None:
        """Take over the nodes.

        Raises:
            ValueError: when they are no trees.
        """
        weights = {RENAMED.get(name, name): array for name, array in weights.items()}
        self.weights, self.activation = weights, activation
        _check_names(weights, (*NODES, "inputs", "values"), ("roots", "lcb_factor"))
        n, of_values = weights["feature"].size, weights["values"].shape[1:2]
        shapes = dict.fromkeys(NODES, (n,)) | {"inputs": (1,), "lcb_factor": (1,), "values": (n, *of_values)}
        for name, shape in shapes.items():
            if name in weights and weights[name].shape != shape:
                raise ValueError("its tree's arrays do not fit together")
        if not n or weights["values"].ndim != 2 or weights.get("roots", np.zeros(1)).ndim != 1:
            raise ValueError("its tree's arrays do not fit together")
        for name in {"inputs", "feature", "left", "right", "roots"} & weights.keys():
            numbers = weights[name]
            if not np.array_equal(numbers, np.round(numbers)) or np.abs(numbers).max(initial=0) > EXACT:
                raise ValueError(f"its tree's {name} are no whole numbers")
        self.threshold, self.values = weights["threshold"].astype(np.float32), weights["values"]
        self.feature, self.left, self.right = (weights[n].astype(int) for n in ("feature", "left", "right"))
        self.roots = weights.get("roots", np.zeros(1)).astype(int)
        self.lcb_factor = weights.get("lcb_factor", np.zeros(1))
        nodes = np.arange(n)
        inner = self.feature >= 0
        children = np.concatenate([self.left[inner], self.right[inner]])
        # Children after their parents: no walk goes in circles.
        if (children <= np.tile(nodes[inner], 2)).any() or not np.array_equal(np.sort([*children, *self.roots]), nodes):
            raise ValueError("its nodes are no tree")
        if self.feature.max() >= self.shape[0]:
            raise ValueError("its tree asks for a field that there is not")

    @property
    def shape(self) -> tuple[int, int]:
        """Fields and actions."""
        return int(self.weights["inputs"][0]), self.values.shape[1]

    def leaves(self, fields: np.ndarray) -> np.ndarray:
        """Return the node of each tree that flat fields end at."""
        at = self.roots
        while (inner := self.feature[at] >= 0).any():
            below = fields[self.feature[at]] <= self.threshold[at]
            at = np.where(inner, np.where(below, self.left[at], self.right[at]), at)
        return at

    def __call__(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the lower confidence bound of the leaves' values."""
        values = self.values[self.leaves(flat(observation))]
        return values.mean(0) - self.lcb_factor * values.std(0)


class Tree(Forest):
    """A decision tree; the network of a distilled policy."""

    kind: ClassVar[str] = "tree"

    def __init__(self, weights: dict[str, np.ndarray], activation: str = "relu") -> None:
        """Take over the nodes.

        Raises:
            ValueError: when they are no tree, or several.
        """
        if "roots" in weights:
            raise ValueError("its nodes are no tree")
        super().__init__(weights, activation)

    def leaf(self, fields: np.ndarray) -> int:
        """Return the node that flat fields end at."""
        return int(self.leaves(fields)[0])


NETWORKS: dict[str, Callable[..., Network]] = {"mlp": Mlp, "deep_sets": DeepSets, "forest": Forest, "tree": Tree}


def _check_names(weights: dict[str, np.ndarray], needed: Iterable[str], others: Iterable[str] = ()) -> None:
    needed = tuple(needed)
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"there is no {missing[0]} in it")
    if unknown := sorted(weights.keys() - {*needed, *others}):
        raise ValueError(f"unknown array {unknown[0]!r}")


def _layers(weights: dict[str, np.ndarray], number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    _check_names(weights, [f"{kind}{i}" for kind in ("weight", "bias") for i in range(number)])
    return [(weights[f"weight{i}"], weights[f"bias{i}"]) for i in range(number)]


def _chain(layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for weight, bias in layers:
        if weight.ndim != 2 or 0 in weight.shape or bias.shape != weight.shape[:1]:
            raise ValueError("its layers do not fit together")
    for (_, before), (weight, _) in itertools.pairwise(layers):
        if weight.shape[1] != len(before):
            raise ValueError("its layers do not fit together")
