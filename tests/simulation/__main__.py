"""`python -m tests.simulation --seed 7` replays one story; `--seeds 1000` hunts."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.story import tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="tell this one story")
    parser.add_argument("--seeds", type=int, default=200, help="how many to tell")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    parser.add_argument("--kinesis", action="store_true", help="stories with a Kinesis stream")
    parser.add_argument("--firehose", action="store_true", help="stories with a Firehose")
    parser.add_argument("--models", action="store_true", help="ask dbt's own SQL as well")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    started, told, failed = time.monotonic(), 0, 0
    for count, seed in enumerate(seeds, start=1):
        told = count
        if broken := tell(
            seed, kinesis=options.kinesis, firehose=options.firehose, models=options.models
        ):
            print(broken)
            failed += 1
            if failed >= options.failures:
                break
    seconds = time.monotonic() - started
    print(f"{told} stories in {seconds:.1f} s ({told / seconds:.1f} a second), {failed} broken")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
