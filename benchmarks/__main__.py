"""Runs every benchmark and prints its table: `make bench`."""

from __future__ import annotations

from benchmarks import answers, scoring, training

if __name__ == "__main__":
    print(scoring.table())
    print()
    print(answers.table())
    print()
    print(training.table())
