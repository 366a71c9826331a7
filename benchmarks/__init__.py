"""Benchmarks: each prints figures with a baseline from the same run, and appends them to a file of JSON lines."""
