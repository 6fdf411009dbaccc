"""The command `thp-env`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn


def _conformance(args: argparse.Namespace) -> int:
    from thp_env.conformance import read_recordings, replay, report

    if args.restore:
        from thp_env.live.host import restore

        print("settings put back" if restore() else "nothing to put back: no earlier run was killed")
        return 0
    if args.live or args.live_random:
        from thp_env.live.check import check_programs, programs_of, random_programs

        programs = programs_of(args.files) if args.live else []
        programs += random_programs(args.live_random, args.seed)
        results = check_programs(programs, args.out, progress=not args.quiet)
    else:
        results = [replay(record) for path in args.files for record in read_recordings(path)]
    if not results:
        raise ValueError("nothing to compare: name recordings, or programs with --live, or --live-random N")
    print(report(results, args.verbose))
    return 0 if all(r.ok for r in results) else 1


def _workloads(args: argparse.Namespace) -> int:
    from thp_env.workload import find, workloads

    if args.names[:1] == ["show"]:
        from thp_workloads.drawing import show

        if len(args.names) != 2:
            raise ValueError("show takes the name of one workload")
        path = args.out or Path(f"{Path(args.names[1]).stem}.png")
        show(find(args.names[1]), args.seed, path)
        print(f"wrote {path}")
        return 0
    chosen = [find(name) for name in args.names] or list(workloads().values())
    if args.profile:
        from thp_agents.profile_report import report

        return report(args.names or [w.name for w in chosen], args)
    fields = {"name": 16, "kind": 10, "family": 16, "split": 11, "description": 0}
    return _list(chosen, fields, tuple(fields), args.json)


def _policies(args: argparse.Namespace) -> int:
    from thp_agents.policy import policies

    fields = {"name": 14, "kind": 10, "source": 0}
    return _list((make() for make in policies().values()), fields, tuple(fields), args.json)


def _list(items: Iterable[object], fields: dict[str, int], shown: Sequence[str], as_json: bool) -> int:
    """Print the fields (name: width) of each item, those shown in columns or all as JSON."""
    rows = [{f: getattr(item, f) for f in fields} for item in items]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(" ".join(f"{row[f]:{fields[f] or ''}}" for f in shown))
    return 0


def _record(args: argparse.Namespace) -> int:
    from thp_workloads.recording.record import record

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if args.follow:
        from thp_workloads.recording.tree import record_tree

        record_tree(command, Path(args.out))
        return 0
    record(command, Path(args.out), progress=not args.quiet)
    return 0


def _import(args: argparse.Namespace) -> int:
    from thp_workloads.importing import import_file

    program = import_file(args.kind, args.file, args.out, args.pid)
    print(f"wrote {args.out}: {len(program)} operations, {program.work.sum():.0f} accesses")
    for note in program.meta["distortions"]:
        print(f"note: {note}")
    return 0


def _train(args: argparse.Namespace) -> int:
    import dataclasses

    from thp_agents.learned.ppo import PpoConfig, train

    config = PpoConfig(seed=args.seed, steps=args.steps)
    if args.workloads:
        from thp_env.workload import find

        for name in args.workloads:
            find(name)
        config = dataclasses.replace(config, workloads=tuple(args.workloads))
    try:
        train(config, args.out, folder=args.folder, resume=args.resume, quiet=args.quiet, command=_command())
    except KeyboardInterrupt:
        words = [w for w in sys.argv[1:] if w != "--resume"]
        saved = (Path(args.folder) / "checkpoint.zip").exists()
        advice = f"go on with: thp-env {shlex.join([*words, '--resume'])}" if saved else "nothing was saved yet"
        print(f"\nstopped; {advice}", file=sys.stderr)
        return 130
    print(f"wrote {args.out}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from thp_agents.evaluation import writable
    from thp_agents.policy import find_policy, policies
    from thp_env.workload import find

    chosen = [find_policy(name) for name in (args.policies or policies())]
    names = args.workloads
    for name in names:
        find(name)
    for path in (args.report, args.csv):
        if path:
            writable(path)
    return _run_and_report(
        chosen, names, args.seeds, args.report, args.csv, args.quiet, "Policies compared", names if args.probe else ()
    )


def _demo(args: argparse.Namespace) -> int:
    from thp_agents.learned.ppo import PpoConfig, train
    from thp_agents.policy import policies

    out = Path(args.folder)
    out.mkdir(parents=True, exist_ok=True)
    config = PpoConfig(steps=1024, n_steps=256) if args.quick else PpoConfig()
    print(f"1/2 training PPO on {', '.join(dict.fromkeys(config.workloads))}")
    agent = train(config, out / "ppo.npz", folder=out, quiet=args.quiet, command=_command())
    print("2/2 evaluating on a recording that no agent was trained on")
    chosen = [agent, *(make() for make in policies().values())]
    title = "Which folio size? A learned agent and the kernel's settings on a recording of sqlite3"
    return _run_and_report(
        chosen,
        ["sqlite_memory"],
        [0],
        out / "report.html",
        out / "runs.csv",
        args.quiet,
        title,
        [*dict.fromkeys(config.workloads), "sqlite_memory"],
    )


def _run_and_report(
    chosen: Sequence, names: Sequence[str], seeds: Sequence[int], report: Path | None, csv: Path | None, quiet: bool,
    title: str, probed: Sequence[str] = (),
) -> int:  # fmt: skip
    from thp_agents.evaluation import evaluate, format_table, table, write_csv
    from thp_agents.report import verdict, write_report

    runs, failed = evaluate(chosen, names, seeds, frames=60 if report else 0, quiet=quiet)
    for name, why in failed.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    if not runs:
        return 1
    header, rows = table(runs)
    print(f"\n{format_table(header, rows)}\n\n{verdict(runs)}")
    if csv:
        write_csv(runs, csv)
    told = ""
    if probed:
        from thp_agents.probe import probe

        told = f"Can the workload be recognised? On {', '.join(probed)}, {probe(workloads=probed, seeds=2)}."
        print(told)
    if report:
        notes = [f"Workloads: {', '.join(names)}; seeds {', '.join(map(str, seeds))}. Reward: ns per access, negative."]
        write_report(runs, failed, report, title, [*notes, *filter(None, [told])])
        print(f"report: {report}")
    return 0


def _probe(args: argparse.Namespace) -> int:
    import thp_env
    from thp_agents.probe import probe

    if args.env not in thp_env.ENVIRONMENTS:
        raise ValueError(f"unknown environment {args.env!r}: one of {', '.join(thp_env.ENVIRONMENTS)}")
    print(probe(args.env, args.workloads, max(1, args.seeds)))
    return 0


def _replay(args: argparse.Namespace) -> int:
    import thp_env
    from thp_env.envs.trajectory import Trajectory, replay

    trajectories = [Trajectory.load(path) for path in args.files]
    differ = 0
    for path, t in zip(args.files, trajectories, strict=True):
        difference = replay(t)
        differ += difference is not None
        other = f" (recorded by thp_env {t.version})" if t.version != thp_env.__version__ else ""
        what = f"{t.env_id} on {t.workload}, {len(t.rewards)} steps, reward {t.rewards.sum():.6g}"
        print(f"{path}: {difference or 'the same'}{other}; {what}")
    return 1 if differ else 0


def _bench(args: argparse.Namespace) -> int:
    from thp_bench import run_bench

    return run_bench(args.json)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _command() -> str:
    return shlex.join(["thp-env", *sys.argv[1:]])


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    p = _Parser(prog="thp-env", description="Linux folio sizes: simulate, train, evaluate.")
    sub = p.add_subparsers(dest="verb", required=True)

    c = sub.add_parser("demo", help="train an agent and evaluate it on a recording of a real program")
    c.add_argument("--folder", default="runs/demo", help="where the results go (default: %(default)s)")
    c.add_argument("--quick", action="store_true", help="train for seconds only")
    c.set_defaults(run=_demo)

    c = sub.add_parser("train", help="train an agent")
    c.add_argument("--out", type=Path, default=Path("runs/ppo.npz"), help="the policy (default: %(default)s)")
    c.add_argument("--folder", default="runs/ppo", help="checkpoints (default: %(default)s)")
    c.add_argument("--steps", type=_natural, default=16_000, help="decisions (default: %(default)s)")
    c.add_argument("--seed", type=_natural, default=0)
    c.add_argument("--workloads", nargs="+", metavar="NAME")
    c.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    c.set_defaults(run=_train)

    c = sub.add_parser("evaluate", help="compare policies on workloads")
    c.add_argument("--policies", nargs="+", metavar="NAME", help="names or .npz files (default: all heuristics)")
    c.add_argument("--workloads", nargs="+", metavar="NAME", default=["sqlite_memory"])
    c.add_argument("--seeds", nargs="+", type=_natural, default=[0])
    c.add_argument("--report", type=Path, help="write an HTML report")
    c.add_argument("--csv", type=Path, help="write one row a run")
    c.add_argument("--probe", action="store_true", help="also say how far observations give a workload's family away")
    c.set_defaults(run=_evaluate)

    c = sub.add_parser("record", help="turn a real run into a trace program (needs valgrind)")
    c.add_argument("--out", default="recording.npz")
    c.add_argument("--follow", action="store_true", help="also what it forks and executes")
    c.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    c.set_defaults(run=_record)

    c = sub.add_parser("import", help="turn a log of perf, strace, DAMON or lackey into a trace program")
    c.add_argument("--from", dest="kind", required=True, choices=("perf", "strace", "damon", "lackey"))
    c.add_argument("file", type=Path, metavar="FILE")
    c.add_argument("--out", type=Path, default=Path("imported.npz"), help="(default: %(default)s)")
    c.add_argument("--pid", type=_natural, help="which process, or target of DAMON (default: the first one)")
    c.set_defaults(run=_import)

    c = sub.add_parser("conformance", help="compare with a real kernel: its recordings, or this host's own")
    c.add_argument("files", nargs="*", type=Path, help="recordings; with --live programs, or folders of them")
    c.add_argument("--live", action="store_true", help="run the programs on this host's kernel (root)")
    c.add_argument("--live-random", type=_natural, default=0, metavar="N", help="run N random programs there")
    c.add_argument("--seed", type=_natural, default=0, help="of the first random program")
    c.add_argument("--out", type=Path, help="also write what the kernel did as recordings")
    c.add_argument("--restore", action="store_true", help="put back what a killed live run had set")
    c.add_argument("--verbose", "-v", action="store_true")
    c.set_defaults(run=_conformance)

    c = sub.add_parser("probe", help="say how far single observations give a workload's family away")
    c.add_argument("--env", default="thp_env/VmaOrder-v0", help="whose observations (default: %(default)s)")
    c.add_argument("--workloads", nargs="+", metavar="NAME", default=[], help="(default: all generators)")
    c.add_argument("--seeds", type=_natural, default=4, help="episodes of each to train on (default: %(default)s)")
    c.set_defaults(run=_probe)

    c = sub.add_parser("replay", help="run saved trajectories again and say whether the same happens")
    c.add_argument("files", nargs="+", type=Path, metavar="FILE")
    c.set_defaults(run=_replay)

    c = sub.add_parser("workloads", help="list, profile or draw the workloads")
    c.add_argument("names", nargs="*", metavar="NAME", help="default: all; `show NAME` draws one")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.add_argument("--profile", action="store_true", help="what each costs under fixed settings and the best per VMA")
    c.add_argument("--seeds", type=_natural, default=3, help="of each for --profile (default: %(default)s)")
    c.add_argument("--processes", type=_natural, default=1, help="for --profile (default: %(default)s)")
    c.add_argument("--out", type=Path, help="file of --profile (JSON) or of show (.png, .html)")
    c.add_argument("--seed", type=_natural, default=0, help="of show (default: %(default)s)")
    c.set_defaults(run=_workloads)

    c = sub.add_parser("policies", help="list the policies")
    c.add_argument("--json", action="store_true")
    c.set_defaults(run=_policies)

    c = sub.add_parser("bench", help="measure the simulator's speed beside its peers")
    c.add_argument("--json", type=Path, help="also write the figures to a file")
    c.set_defaults(run=_bench)

    for name, command in sub.choices.items():
        if name in ("demo", "train", "evaluate", "record", "workloads", "conformance"):
            command.add_argument("--quiet", action="store_true", help="no progress bars")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; bad input is one clear line and exit code 2."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, KeyError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"thp-env: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
