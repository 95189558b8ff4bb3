"""Benches: one file each, with its flags and its `run`. Found by listing this folder; may import every room below."""
