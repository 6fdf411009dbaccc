"""`thp-env live`: workloads on this host's kernel beside the simulator, and recordings of two kernels side by side."""

from __future__ import annotations

import argparse
import sys


def run(args: argparse.Namespace) -> int:
    """Run it; return 0 where both sides did the same, 1 where they differ, 3 where others may be the reason."""
    from thp_env.files import check_writable
    from thp_env.live.settings import restore
    from thp_env.live.whole import compare_files, draw_programs, report, run_workloads
    from thp_env.recording_file import write_recordings

    if args.restore:
        print("settings put back" if restore() else "nothing to put back: no earlier run was killed")
        return 0
    if args.compare:
        comparisons = compare_files(*args.compare)
    else:
        programs = draw_programs(args.names, args.size, args.seed, args.settings)
        if args.out:
            check_writable(args.out)
        progress = None if args.quiet else lambda text: print(text, file=sys.stderr)
        recordings, comparisons = [], []
        try:
            for recording, comparison in run_workloads(programs, args.runs, progress):
                recordings.append(recording)
                comparisons.append(comparison)
        finally:  # ctrl-C keeps what is done
            if args.out and recordings:
                write_recordings(args.out, recordings)
    print(report(comparisons, args.verbose))
    return 1 if any(c.failed for c in comparisons) else 0 if all(c.ok for c in comparisons) else 3
