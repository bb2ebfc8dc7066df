"""Benchmarks, each against what a user would write by hand, in the same run.

`python -m bench` runs them all and prints a table; `--json` prints one JSON object a line. They
measure ratios: machines differ, and a busy machine slows both sides.
"""
