"""Commands: one file each, with its flags and its `run`. Found by listing
this folder. Only `cli` imports them.
"""
