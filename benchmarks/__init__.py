"""Benchmarks: each prints its figures beside a baseline of the same run, and appends them to a file of JSON lines."""
