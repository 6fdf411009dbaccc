"""The command `thp-env`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from thp_agents.parser import parser
from thp_agents.refusals import refuse
from thp_env.signals import exit_code, hold_signals, sigterm_interrupts


def _conformance(args: argparse.Namespace) -> int:
    from thp_env.conformance import replay_file, report

    if args.restore:
        from thp_env.live.settings import restore

        print("settings put back" if restore() else "nothing to put back: no earlier run was killed")
        return 0
    if args.live or args.live_random:
        from thp_env.live.check import check_programs
        from thp_env.live.programs import programs_of, random_programs

        programs = programs_of(args.files) if args.live else []
        programs += random_programs(args.live_random, args.seed)
        results = check_programs(programs, args.out, progress=not args.quiet)
    else:
        results = [result for path in args.files for result in replay_file(path)]
    if not results:
        raise ValueError("nothing to compare: name recordings, or programs with --live, or --live-random N")
    print(report(results, args.verbose))
    return 1 if any(r.failed for r in results) else 0 if all(r.ok for r in results) else 3


def _live(args: argparse.Namespace) -> int:
    from thp_agents.live_command import run

    return run(args)


def _watch(args: argparse.Namespace) -> int:
    from thp_agents.watch_command import run

    return run(args)


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
    selection = [find(name) for name in args.names] or list(workloads().values())
    if args.profile:
        from thp_agents.profile_report import report

        return report(args.names or [w.name for w in selection], args)
    fields = {"name": 16, "kind": 10, "family": 16, "split": 11, "description": 0}
    return _list(selection, fields, tuple(fields), args.json)


def _policies(args: argparse.Namespace) -> int:
    from types import SimpleNamespace

    from thp_agents.catalogue import find_policy
    from thp_agents.learned import shipped
    from thp_agents.plug_ins import policies

    fields = {"name": 28, "kind": 10, "source": 0}
    by_name = {name: find_policy(name) for name in (*policies(), *shipped())}
    rows = (SimpleNamespace(name=name, kind=p.kind, source=p.source) for name, p in by_name.items())
    return _list(rows, fields, tuple(fields), args.json)


def _list(items: Iterable[object], fields: dict[str, int], columns: Sequence[str], as_json: bool) -> int:
    """Print the fields (name: width) of each item, those shown in columns or all as JSON."""
    rows = [{f: getattr(item, f) for f in fields} for item in items]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(" ".join(f"{row[f]:{fields[f] or ''}}" for f in columns))
    return 0


def _record(args: argparse.Namespace) -> int:
    from thp_workloads.recording.record import record
    from thp_workloads.recording.summary import summary

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if args.native:
        from thp_workloads.recording.native_record import record_native

        if args.seconds or args.after or args.seed or args.no_children or args.lackey or args.most:
            raise ValueError("--native records the whole run as it is: leave the other options out")
        program = record_native(command, args.out)
    else:
        most = None if args.most is None else int(args.most * (1 << 20))
        program = record(
            command, args.out, seconds=args.seconds, after=args.after, seed=args.seed, children=not args.no_children,
            most=most, smc_check=args.smc_check, lackey=args.lackey, progress=not args.quiet,
        )  # fmt: skip
    for line in summary(program, args.out):
        print(line, file=sys.stderr)  # standard output is the command's
    status = program.meta["exit_status"]
    return 128 - status if status < 0 else status


def _calibrate(args: argparse.Namespace) -> int:
    from thp_agents.calibrate_command import run

    return run(args)


def _recommend(args: argparse.Namespace) -> int:
    from thp_agents.recommend_command import run

    return run(args)


def _collapse(args: argparse.Namespace) -> int:
    from thp_agents.collapse_command import run

    return run(args)


def _corpus(args: argparse.Namespace) -> int:
    if args.action == "folios":
        from thp_agents.corpus_folios import run

        return run(args.names, args.out)
    from thp_workloads.recording.corpus import main

    return main(args.action, args.names, args.out, args.small, args.quiet)


def _import(args: argparse.Namespace) -> int:
    from thp_workloads.importing import import_file
    from thp_workloads.importing.summary import summary

    program = import_file(args.kind, args.file, args.out, args.pid)
    print(f"wrote {args.out}")
    for line in summary(program):
        print(line)
    for note in program.meta["distortions"]:
        print(f"note: {note}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from thp_agents.train_command import run

    return run(args, sys.argv[1:])


def _tune(args: argparse.Namespace) -> int:
    from thp_agents.tune_command import run

    return run(args, _command())


def _evaluate(args: argparse.Namespace) -> int:
    from thp_agents.evaluate_command import run

    return run(args)


def _ensemble(args: argparse.Namespace) -> int:
    from thp_agents.ensemble_command import run

    return run(args, _command())


def _distill(args: argparse.Namespace) -> int:
    from thp_agents.distill_command import run

    return run(args, _command())


def _dataset(args: argparse.Namespace) -> int:
    from thp_agents.dataset_command import run

    return run(args, _command())


def _demo(args: argparse.Namespace) -> int:
    with hold_signals():
        from thp_agents.demo_command import run

    return run(args, _command())


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

    return run_bench(args.json, grow=args.growth)


def _command() -> str:
    return shlex.join(["thp-env", *sys.argv[1:]])


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "train": _train,
    "tune": _tune,
    "evaluate": _evaluate,
    "ensemble": _ensemble,
    "distill": _distill,
    "dataset": _dataset,
    "record": _record,
    "calibrate": _calibrate,
    "recommend": _recommend,
    "collapse": _collapse,
    "corpus": _corpus,
    "import": _import,
    "conformance": _conformance,
    "live": _live,
    "watch": _watch,
    "probe": _probe,
    "replay": _replay,
    "workloads": _workloads,
    "policies": _policies,
    "bench": _bench,
}
"""What carries out each verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; whatever goes wrong is one clear line and exit code 2, ctrl-C 130 and SIGTERM 143."""
    debug = bool(os.environ.get("THP_ENV_DEBUG"))
    try:
        with sigterm_interrupts():
            try:
                args = parser().parse_args(argv)
                debug = debug or args.debug
                code = _carry_out(args)
            except SystemExit:  # --help and --version have printed
                _flush()
                raise
            _flush()
            return code
    except KeyboardInterrupt as stop:
        print("; ".join(["stopped", *map(str, stop.args)]), file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError as error:
        if error.filename is None:  # whoever read the output, such as head, has seen enough
            _write_no_more()
            return 0
        return refuse(error)
    except Exception as error:
        if debug:
            raise
        return refuse(error)


def _carry_out(args: argparse.Namespace) -> int:
    if (costs := getattr(args, "costs", None)) is None:
        return COMMANDS[args.verb](args)
    from thp_env.machine.costs_file import costs_in_force

    with costs_in_force(costs):
        return COMMANDS[args.verb](args)


def _flush() -> None:
    if sys.stdout:  # there is none after `>&-`
        sys.stdout.flush()


def _write_no_more() -> None:
    """Let the interpreter's last flush go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
