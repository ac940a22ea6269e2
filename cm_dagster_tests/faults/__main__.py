"""Crashes and faults by the thousand: ``make faults SEED=1 N=1000``, or ``REPLAY=FILE`` for one scenario again.

Prints the deaths by crash point, and what was lost, doubled, redone or begun too early over all worlds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from cm_dagster_tests.faults.play import working_folder
from cm_dagster_tests.faults.scenario import Scenario
from cm_dagster_tests.faults.tally import replay, run

_LONG = 1000
"""Deaths among which there must be one at each point."""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Read the command line and do it; exit code 1 if a world is not as it should be or a long run missed a point."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=1000, help="number of deaths")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worlds at a time")
    parser.add_argument("--replay", type=Path, help="scenario.json of a world, to be played again")
    chosen = parser.parse_args()
    folder = working_folder()
    if chosen.replay:
        tally = replay(Scenario.load(chosen.replay), folder)
    else:
        tally = run(chosen.seed, chosen.number, folder, chosen.jobs, _say)
    _say(tally.report())
    if tally.bad:
        _say(f"kept for a look: {folder}; the log of a world is in its file log, its scenario in scenario.json")
        return 1
    shutil.rmtree(folder)
    return 1 if tally.missed and tally.deaths >= _LONG else 0


if __name__ == "__main__":
    sys.exit(main())
