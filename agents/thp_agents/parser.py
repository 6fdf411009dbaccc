"""The arguments of the command `thp-env`, verb by verb."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


class _Version(argparse.Action):
    """Prints the version, which only then has to be imported."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> NoReturn:
        from thp_env import BEHAVIOUR, __version__

        print(f"thp-env {__version__} (behaviour {BEHAVIOUR} of the simulator)")
        parser.exit()


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not _natural(text):
        raise argparse.ArgumentTypeError("0 is too few: take 1 or more")
    return int(text)


def _duration(text: str) -> float:
    from thp_agents.durations import Duration

    try:
        return Duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if not 0 <= factor <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100")
    return factor


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.01 to 86400")
    return seconds


_LOGS = ("perf", "strace", "damon", "lackey", "pinatrace", "memtrace")
"""`thp_workloads.importing.KINDS`, which a parser need not import."""


_QUIET = (
    "demo", "train", "tune", "evaluate", "distill", "record", "corpus", "workloads", "conformance", "live", "recommend",
)  # fmt: skip
"""Verbs that say on standard error how far they are."""
_COSTS = ("demo", "train", "tune", "evaluate", "distill", "dataset", "probe", "workloads", "recommend")
"""Verbs that simulate on a machine whose costs may be measured ones."""


def _demo(c: argparse.ArgumentParser) -> None:
    c.add_argument("--folder", default="runs/demo", help="where the results go (default: %(default)s)")
    budget = c.add_mutually_exclusive_group()
    budget.add_argument("--quick", action="store_true", help="train for seconds only")
    budget.add_argument("--full", action="store_true", help="train with the whole budget: some minutes")


def _train(c: argparse.ArgumentParser) -> None:
    c.add_argument("--agent", default="maskable_ppo", metavar="NAME", help="or a .toml file (default: %(default)s)")
    c.add_argument("--out", type=Path, help="the policy (default: runs/AGENT-SEED.npz)")
    c.add_argument("--folder", help="checkpoints and TensorBoard logs (default: runs/AGENT-SEED)")
    c.add_argument("--steps", type=_natural, help="decisions (default: the agent's)")
    c.add_argument("--seed", type=_natural, help="(default: the agent's)")
    c.add_argument("--workloads", nargs="+", metavar="NAME", help="(default: the agent's, or all to train on)")
    c.add_argument("--threads", type=_natural, default=1, help="that step the machines (default: %(default)s)")
    c.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def _tune(c: argparse.ArgumentParser) -> None:
    c.add_argument("--agent", default="maskable_ppo", metavar="NAME", help="or a .toml file (default: %(default)s)")
    c.add_argument("--trials", type=_positive, default=30, help="at most 30 (default: %(default)s)")
    c.add_argument("--seconds", type=_positive, default=180, help="of each training, at most 180 (default: 180)")
    c.add_argument("--seed", type=_natural, help="of the search and of each training (default: the agent's)")
    c.add_argument("--out", type=Path, help="the search, to go on from (default: AGENT.trials.json beside its file)")


def _evaluate(c: argparse.ArgumentParser) -> None:
    c.add_argument("--suite", metavar="NAME", help="test, validation, full_validation, ... (default: validation)")
    c.add_argument("--policies", nargs="+", metavar="NAME",
                   help="names, .npz files, sb3:model.zip or module:Class (default: all there are)")  # fmt: skip
    c.add_argument("--workloads", nargs="+", metavar="NAME", help="instead of a suite")
    c.add_argument("--seeds", nargs="+", type=_natural, default=[0], help="with --workloads")
    c.add_argument("--horizon", type=_duration, metavar="TIME",
                   help="how long programs will run, as 10m, 1h or 1w: the costs of their second half count as often "
                        "as it takes to get there (default: once)")  # fmt: skip
    c.add_argument("--report", type=Path, metavar="FOLDER", help="write an HTML report with pictures")
    c.add_argument("--csv", type=Path, help="write one row a run")
    c.add_argument("--results", type=Path, metavar="FILE", help="write all results: .json or .json.xz")
    c.add_argument("--from", dest="show", type=Path, metavar="FILE", help="run nothing: show a file of results")
    c.add_argument("--store", type=Path, help="results, to go on from (default: runs/evaluate/SUITE.jsonl)")
    c.add_argument("--processes", type=_natural, default=0, help="(default: one for each CPU)")
    c.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="run on a Ray cluster; default: a local one")
    c.add_argument("--limit", type=_natural, default=300, metavar="SECONDS", help="of one run (default: %(default)s)")
    c.add_argument("--fresh", action="store_true", help="compute all anew, whatever has been stored")
    c.add_argument("--clairvoyant", action="store_true", help="search the references where they are not known: slow")
    c.add_argument("--recompute-references", action="store_true", help="search the static oracle again")
    c.add_argument("--save-references", action="store_true", help="keep their results in the package")
    c.add_argument("--choose", action="store_true", help="keep the best heuristic and agent of --suite validation")
    c.add_argument("--power", action="store_true", help="also say how many families and instances show a lead of 5")
    c.add_argument("--probe", action="store_true", help="also say how far observations give the families away")
    c.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def _ensemble(c: argparse.ArgumentParser) -> None:
    c.add_argument("files", nargs="+", metavar="FILE", help="trained policies' .npz files, or AGENT#SEED")
    c.add_argument("--out", type=Path, required=True, metavar="NAME-SEED.npz", help="the policy")
    c.add_argument("--lcb-factor", type=_factor, metavar="FACTOR",
                   help="of forests: standard deviations of trees to lower values by (default: theirs)")  # fmt: skip
    c.add_argument("--margin", type=_factor, default=0.0, metavar="VALUE",
                   help="of an action over doing nothing, in value (default: %(default)g)")  # fmt: skip


def _distill(c: argparse.ArgumentParser) -> None:
    c.add_argument("file", metavar="FILE", help="a trained policy's .npz file, or AGENT#SEED of one that ships")
    c.add_argument("--out", type=Path, help="the tree; .txt and .c beside it (default: runs/FILE-tree.npz)")
    c.add_argument("--leaves", type=_positive, default=30, help="at most (default: %(default)s)")
    c.add_argument("--rounds", type=_positive, default=3, help="of playing and fitting (default: %(default)s)")
    c.add_argument("--episodes", type=_positive, default=4, help="of each workload a round (default: %(default)s)")
    c.add_argument("--seed", type=_natural, default=0, help="of the first episode (default: %(default)s)")
    c.add_argument("--workloads", nargs="+", metavar="NAME", default=[], help="(default: the training's)")
    c.add_argument("--suite", metavar="NAME", default="validation", help="to score both on (default: %(default)s)")
    c.add_argument("--no-score", action="store_true", help="score nothing")
    c.add_argument("--store", type=Path, help="results of the scoring, to go on from")
    c.add_argument("--processes", type=_natural, default=0, help="(default: one for each CPU)")


def _dataset(c: argparse.ArgumentParser) -> None:
    c.add_argument("--policies", nargs="+", metavar="NAME", default=["random", "best-heuristic"],
                   help="as of evaluate, or best-heuristic (default: random best-heuristic)")  # fmt: skip
    c.add_argument("--env", default="thp_env/VmaOrder-v0", help="that they decide in (default: %(default)s)")
    c.add_argument("--workloads", nargs="+", metavar="NAME", default=["hot_island"], help="(default: hot_island)")
    c.add_argument("--size", help="of generators' episodes: tiny, short, small or full (default: small)")
    c.add_argument("--episodes", type=_positive, default=20, help="of each policy (default: %(default)s)")
    c.add_argument("--seed", type=_natural, default=0, help="of the first episode (default: %(default)s)")
    c.add_argument("--name", help="datasets are called NAME/POLICY-v0 (default: thp_env/ENVIRONMENT)")
    c.add_argument("--folder", type=Path, help="where datasets are kept (default: Minari's own)")
    c.add_argument("--author", default="anonymous", help="to be kept with the data (default: %(default)s)")


def _record(c: argparse.ArgumentParser) -> None:
    c.add_argument("--out", default="recording.npz")
    c.add_argument("--seconds", type=float, help="end the command after so many seconds of its own time")
    c.add_argument("--after", type=float, default=0.0, help="seconds of its own time to skip first")
    c.add_argument("--seed", type=_natural, default=0, help="draws the address space's layout (default: not random)")
    c.add_argument("--no-children", action="store_true", help="only the command itself, not what it executes")
    c.add_argument("--most", type=float, metavar="MIB", help="size of the file at most: fewer accesses are kept")
    c.add_argument("--smc-check", default="all-non-file", choices=("all", "all-non-file"), metavar="WHERE",
                   help="of valgrind; all: for code that is written through a file, as Erlang's")  # fmt: skip
    c.add_argument("--native", action="store_true", help="at full speed, by perf: first touches and calls only")
    c.add_argument("--lackey", action="store_true", help="use valgrind's lackey: slow, one process")
    c.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")


def _calibrate(c: argparse.ArgumentParser) -> None:
    c.add_argument("--out", type=Path, default=Path("costs.toml"), help="the file of costs (default: %(default)s)")
    c.add_argument("--idle", type=_natural, default=10, metavar="SECONDS",
                   help="that memory lies idle before it is measured again, or 0 (default: %(default)s)")  # fmt: skip
    c.add_argument("--no-swap", action="store_true", help="do not measure swapping to zram, which needs root")


def _recommend(c: argparse.ArgumentParser) -> None:
    c.add_argument("--recording", metavar="FILE", help="advise about a recording (or a workload), instead of a command")
    c.add_argument("--recipe", nargs="+", metavar="NAME",
                   help="run recipes' programs (thp-env corpus list) instead; several end with a table")  # fmt: skip
    c.add_argument("--small", action="store_true", help="a recipe's quick look, not its full length")
    c.add_argument("--beside", metavar="COMMAND", help="run natively at the same time, as the clients of a server are")
    c.add_argument("--recorder", choices=("auto", "valgrind", "perf"), default="auto",
                   help="perf is fast and sees no accesses (default: valgrind for a second of CPU; beyond, perf, and "
                        "valgrind for the accesses)")  # fmt: skip
    c.add_argument("--save-recording", type=Path, metavar="FILE", help="keep what was recorded")
    c.add_argument("--horizon", type=_duration, metavar="TIME",
                   help="how long the program will run, as 10m, 1h or 1w: its second half goes on as it was "
                        "(default: as long as it was recorded)")  # fmt: skip
    c.add_argument("--more-memory", type=float, default=10, metavar="PERCENT",
                   help="of peak usage that advice may cost (default: %(default)s)")  # fmt: skip
    c.add_argument("--layouts", type=_positive, default=3, help="of the address space to try (default: %(default)s)")
    c.add_argument("--core", help="the TLB to simulate (docs/explanation/tlb.md; default: this host's, or zen4)")
    c.add_argument("--report", type=Path, metavar="FILE", help="also write an HTML page with a picture")
    c.add_argument("--verify", action="store_true", help="run the command natively under what is advised, too")
    c.add_argument("--rivals", action="store_true",
                   help="with --verify: also measure six fixed settings beside the advice")  # fmt: skip
    c.add_argument("--repeats", type=_positive, default=5, help="native runs of each setting (default: %(default)s)")
    c.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    c.add_argument("--restore", action="store_true", help="put back what a killed --verify had set")
    c.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")


def _collapse(c: argparse.ArgumentParser) -> None:
    c.add_argument("--every", type=_seconds, metavar="SECONDS", help="(default: one)")
    c.add_argument("--least", type=float, metavar="PERCENT",
                   help="of a block that has to be there before it is collapsed (default: half)")  # fmt: skip
    c.add_argument("--quiet", action="store_true", help="say nothing at the end")
    c.add_argument("target", nargs="*", metavar="PID | -- COMMAND", help="a process, or a command to start")


def _corpus(c: argparse.ArgumentParser) -> None:
    c.add_argument("action", choices=("list", "record", "check", "folios"))
    c.add_argument("names", nargs="*", metavar="NAME", help="recipes (default: all)")
    c.add_argument("--out", type=Path, default=Path("corpus"), help="folder of the recordings (default: %(default)s)")
    c.add_argument("--small", action="store_true", help="a quick look, not the full length")


def _import(c: argparse.ArgumentParser) -> None:
    c.add_argument("--from", dest="kind", required=True, choices=_LOGS)
    c.add_argument("file", type=Path, metavar="FILE")
    c.add_argument("--out", type=Path, default=Path("imported.npz"), help="(default: %(default)s)")
    c.add_argument("--pid", type=_natural, help="which process, or target of DAMON (default: the first one)")


def _conformance(c: argparse.ArgumentParser) -> None:
    c.add_argument("files", nargs="*", type=Path, help="recordings; with --live programs, or folders of them")
    c.add_argument("--live", action="store_true", help="run the programs on this host's kernel (root)")
    c.add_argument("--live-random", type=_natural, default=0, metavar="N", help="run N random programs there")
    c.add_argument("--seed", type=_natural, default=0, help="of the first random program")
    c.add_argument("--out", type=Path, help="also write what the kernel did as recordings")
    c.add_argument("--restore", action="store_true", help="put back what a killed live run had set")
    c.add_argument("--verbose", "-v", action="store_true")


def _live(c: argparse.ArgumentParser) -> None:
    c.add_argument("names", nargs="*", metavar="FILE|WORKLOAD", help="what to run")
    c.add_argument("--settings", nargs="+", default=[], metavar="WORD",
                   help="sizes (16K+64K, 2M, all, never), madvise, defrag=never and so on (default: all)")  # fmt: skip
    c.add_argument("--size", help="of generators: tiny, small or full (default: as they are)")
    c.add_argument("--seed", type=_natural, default=0, help="of the instance (default: %(default)s)")
    c.add_argument("--runs", type=_positive, default=3, help="of each at most; of what reclaims, all (default: 3)")
    c.add_argument("--out", type=Path, help="write what the kernel did: .jsonl or .jsonl.xz")
    c.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="compare two such files instead")
    c.add_argument("--restore", action="store_true", help="put back what a killed run had set")
    c.add_argument("--verbose", "-v", action="store_true", help="also the sums of both sides")


def _watch(c: argparse.ArgumentParser) -> None:
    c.add_argument("--html", type=Path, metavar="FILE", help="also as a page (or a .png), written anew at each look")
    c.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="(default: %(default)s)")
    c.add_argument("--quiet", action="store_true", help="nothing in the terminal, which is the command's")
    c.add_argument("target", nargs="*", metavar="PID | -- COMMAND", help="a process, or a command to start")


def _probe(c: argparse.ArgumentParser) -> None:
    c.add_argument("--env", default="thp_env/VmaOrder-v0", help="whose observations (default: %(default)s)")
    c.add_argument("--workloads", nargs="+", metavar="NAME", default=[], help="(default: all generators)")
    c.add_argument("--seeds", type=_natural, default=4, help="episodes of each to train on (default: %(default)s)")


def _replay(c: argparse.ArgumentParser) -> None:
    c.add_argument("files", nargs="+", type=Path, metavar="FILE")


def _workloads(c: argparse.ArgumentParser) -> None:
    c.add_argument("names", nargs="*", metavar="NAME", help="default: all; `show NAME` draws one")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.add_argument("--profile", action="store_true", help="what each costs under fixed settings and the best per VMA")
    c.add_argument("--seeds", type=_natural, default=3, help="of each for --profile (default: %(default)s)")
    c.add_argument("--processes", type=_natural, default=1, help="for --profile (default: %(default)s)")
    c.add_argument("--out", type=Path, help="file of --profile (JSON) or of show (.png, .html)")
    c.add_argument("--seed", type=_natural, default=0, help="of show (default: %(default)s)")


def _policies(c: argparse.ArgumentParser) -> None:
    c.add_argument("--json", action="store_true")


def _bench(c: argparse.ArgumentParser) -> None:
    c.add_argument("--json", type=Path, help="also write the figures to a file")
    c.add_argument("--growth", action="store_true", help="how costs grow with VMAs, processes and memory, instead")


VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "demo": ("train an agent and evaluate it on programs it has never seen", _demo),
    "train": ("train an agent", _train),
    "tune": ("search an agent's hyperparameters on the validation families", _tune),
    "evaluate": ("compare policies on workloads", _evaluate),
    "ensemble": ("make one policy of several trainings: what they value most together", _ensemble),
    "distill": ("turn a trained policy into a small decision tree: rules and C for a BPF hook", _distill),
    "dataset": ("record policies as Minari datasets for offline learning, with datasheets", _dataset),
    "record": ("turn a real run into a trace program (needs valgrind)", _record),
    "calibrate": ("measure what this host takes for faults and memory calls, for --costs", _calibrate),
    "recommend": ("say which settings a program gains from, with the lines that set them", _recommend),
    "collapse": ("collapse a running program's memory to folios of 2M from outside, now and then (root)", _collapse),
    "corpus": ("record real programs by their recipes, and check recordings against native runs", _corpus),
    "import": ("turn a log of perf, strace, DAMON, lackey, ... into a trace program", _import),
    "conformance": ("compare with a real kernel: its recordings, or this host's own", _conformance),
    "live": ("run workloads on this host's kernel and compare with the simulator (root)", _live),
    "watch": ("show the memory of a running program by folio size (root)", _watch),
    "probe": ("say how far single observations give a workload's family away", _probe),
    "replay": ("run saved trajectories again and say whether the same happens", _replay),
    "workloads": ("list, profile or draw the workloads", _workloads),
    "policies": ("list the policies", _policies),
    "bench": ("measure the simulator's speed beside its peers", _bench),
}
"""What each verb is for, and what adds its arguments."""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    p = _Parser(prog="thp-env", description="Linux folio sizes: simulate, train, evaluate.")
    p.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    p.add_argument("--debug", action="store_true", help="show where an unexpected error comes from")
    sub = p.add_subparsers(dest="verb", required=True)
    for name, (text, add_arguments) in VERBS.items():
        command = sub.add_parser(name, help=text)
        add_arguments(command)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name in _COSTS:
            command.add_argument("--costs", type=Path, metavar="FILE",
                                 help="simulate with the costs of a host that thp-env calibrate measured")  # fmt: skip
        if name in _QUIET:
            command.add_argument("--quiet", action="store_true", help="no progress bars")
    return p
