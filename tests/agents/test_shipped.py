"""The trained policies that ship: what made them, and that what was chosen is there."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from thp_agents.catalogue import find_policy
from thp_agents.cli import parser
from thp_agents.evaluation.choice import load_choice
from thp_agents.learned import shipped
from thp_agents.learned.config import AgentConfig, load_config
from thp_agents.learned.hyperparameters import RENAMED
from thp_agents.plug_ins import policies

from thp_env.envs.renamed import current_names


@pytest.mark.parametrize("name", shipped())
def test_a_policy_says_what_made_it(name: str) -> None:
    policy = find_policy(name)
    agent, seed = name.split("#")
    command = shlex.split(policy.source)
    args = parser().parse_args(command[1:])
    if args.verb == "ensemble":
        assert args.out.stem == name.replace("#", "-")
        assert {*policy.meta["members"]} <= {*shipped()}, "its members ship, too"
        return
    assert (args.agent, args.seed or 0, policy.meta["seed"]) == (agent, int(seed), int(seed))
    assert policy.meta["version"], "whatever it is: a new one drops no policy"
    config = load_config(agent, seed=int(seed))
    if args.steps:
        config = replace(config, steps=args.steps)
    made_with = AgentConfig(agent).as_dict() | policy.meta["config"]
    made_with["arguments"] = current_names(made_with["arguments"])
    made_with["hyperparameters"] = {RENAMED.get(name, name): h for name, h in made_with["hyperparameters"].items()}
    assert not made_with.pop("first", 0), "a field that is gone, and that no agent had set"
    assert made_with == config.as_dict(), "its file as it is now"
    assert policy.meta["decisions"] >= (config.check or config.steps), "the last one, or the best that was looked at"


def test_what_was_chosen_is_there_and_a_headline_has_five_trainings() -> None:
    choice = load_choice()
    assert choice is not None
    if choice.headline:
        chosen = [find_policy(name) for name in shipped() if name.startswith(f"{choice.headline}#")]
        assert sum(len(policy.meta.get("members", [policy])) for policy in chosen) >= 5
    assert choice.reference in policies()
