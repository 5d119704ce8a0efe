"""Benchmarks: `make bench`. Ratios against a floor and peers of the same run, never a timed test."""
