"""The permutation-invariant network of `networks.DeepSets` as a policy of sb3-contrib's MaskablePPO."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class VmaEmbedding(BaseFeaturesExtractor):
    """One embedding for each slot, zero where it is empty.

    Args:
        observation_space: of VmaHints-v0.
        width: of an embedding.
    """

    def __init__(self, observation_space: gymnasium.spaces.Dict, width: int = 64) -> None:
        """Make the layer."""
        slots, fields = observation_space["vmas"].shape  # type: ignore[misc]
        super().__init__(observation_space, slots * width)
        shared = sum(int(observation_space[key].shape[0]) for key in ("system", "other"))  # type: ignore[index,misc]
        self.slots, self.embed = slots, nn.Linear(fields + shared, width)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the embeddings, flat."""
        shared = torch.cat([observations["system"], observations["other"]], 1)
        rows = torch.cat([observations["vmas"], shared[:, None].expand(-1, self.slots, -1)], 2)
        embedded = torch.tanh(self.embed(rows)) * observations["present"].reshape(-1, self.slots, 1)
        return embedded.flatten(1)


class _Mix(nn.Module):
    """Tells each slot the mean of all; the value sees the mean alone."""

    def __init__(self, slots: int, width: int, hidden: int) -> None:
        super().__init__()
        self.slots = slots
        self.latent_dim_pi, self.latent_dim_vf = slots * hidden, hidden
        self.mix, self.value = nn.Linear(2 * width, hidden), nn.Linear(width, hidden)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        embedded = features.unflatten(1, (self.slots, -1))
        mean = embedded.mean(1, keepdim=True).expand_as(embedded)
        return torch.tanh(self.mix(torch.cat([embedded, mean], 2))).flatten(1)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.value(features.unflatten(1, (self.slots, -1)).mean(1)))


class _Heads(nn.Module):
    """The same head for every slot."""

    def __init__(self, slots: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.slots, self.head = slots, nn.Linear(hidden, actions)
        nn.init.orthogonal_(self.head.weight, 0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.head(latent.unflatten(1, (self.slots, -1))).flatten(1)


class DeepSetsPolicy(MaskableMultiInputActorCriticPolicy):
    """Decides about all VMAs at once with one small network.

    Args:
        arguments: of the policy class; `net_arch` is (embedding, hidden).
        named: the same.
    """

    def __init__(self, *arguments: Any, net_arch: tuple[int, int] = (64, 64), **named: Any) -> None:
        """Make the networks."""
        self._hidden = int(net_arch[1])
        named |= {"features_extractor_class": VmaEmbedding, "features_extractor_kwargs": {"width": int(net_arch[0])}}
        super().__init__(*arguments, **named)

    def _build_mlp_extractor(self) -> None:
        slots: Any = self.features_extractor.slots
        self.mlp_extractor = _Mix(slots, self.features_dim // slots, self._hidden)  # type: ignore[assignment]

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        slots: Any = self.features_extractor.slots
        self.action_net = _Heads(slots, self._hidden, int(self.action_space.nvec[0]))  # type: ignore[attr-defined]
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def layers(self) -> list[nn.Linear]:
        """Return the actor's layers in the order of `networks.DeepSets`."""
        parts: list[Any] = [self.features_extractor.embed, self.mlp_extractor.mix, self.action_net.head]
        return parts
