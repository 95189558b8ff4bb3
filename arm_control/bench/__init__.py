"""Benchmarks: one file each, with its flags and its `run`, found by listing this folder."""
