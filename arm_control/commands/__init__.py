"""Commands: one file each, with its flags and its `run`, found by listing this folder. Only `cli` imports them."""
