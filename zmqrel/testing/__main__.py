"""Run random workloads: `python -m zmqrel.testing MIX FIRST_SEED [STEPS [SEEDS]]`; without arguments, say the mixes."""

import sys

from zmqrel.testing.mixes import MIXES
from zmqrel.testing.pace import Pace
from zmqrel.testing.workload import run


def main(arguments: list[str]) -> int:
    """Run what the arguments say; 2 if they make no sense. A broken promise is raised."""
    if not 2 <= len(arguments) <= 4 or arguments[0] not in MIXES or not all(map(str.isdigit, arguments[1:])):
        print(__doc__)
        print("mixes:", ", ".join(map(repr, MIXES)))
        return 2
    first, steps, seeds = (*map(int, arguments[1:]), *(200, 1)[len(arguments) - 2 :])
    pace = Pace()
    for seed in range(first, first + seeds):
        workload = run(seed, arguments[0], steps)
        told = len(workload.checker.histories), workload.checker.hand_overs, workload.network.now
        print(f"seed {seed}: {told[0]} messages, {told[1]} hand-overs, {told[2]:.1f} virtual seconds")
        pace += workload.pace
    print(pace)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
