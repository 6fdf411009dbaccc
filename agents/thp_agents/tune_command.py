"""`thp-env tune`: searches an agent's hyperparameters on the validation families."""

from __future__ import annotations

import argparse
from pathlib import Path

from thp_agents.files import writable
from thp_agents.learned.config import FOLDER, load_config
from thp_agents.policy import PolicyError
from thp_env.signals import hold_signals


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the search.
    """
    config = load_config(args.agent, **({} if args.seed is None else {"seed": args.seed}))
    beside = Path(args.agent) if args.agent.endswith(".toml") else FOLDER / args.agent
    out = writable(args.out or beside.with_suffix(".trials.json"))
    with hold_signals():
        from thp_agents.learned.tuning import SECONDS, TRIALS, Judge, Search, validation_cases

    if args.trials > TRIALS or args.seconds > SECONDS:
        raise PolicyError(f"a search has at most {TRIALS} trials of {SECONDS:g} s, so that agents compare fairly")
    judge = Judge(validation_cases())
    search = Search(
        config, out, judge, seconds=args.seconds, seed=config.seed, command=command, cases=judge.cases
    )  # fmt: skip
    try:
        search.run(args.trials, lambda line: None if args.quiet else print(line, flush=True))
    except KeyboardInterrupt as stop:
        stop.args = (f"trials that ended are kept in {out}, and the same command goes on from there",)
        raise
    if search.best is None:
        raise PolicyError("every trial was cut short: search with more trials")
    print(f"the best of {len(search.trials)} trials scores {search.best.scores[-1]:.3f}; its hyperparameters:")
    for name, value in search.best.params.items():
        print(f"{name} = {value!r}")
    print(f"wrote {out}")
    return 0
