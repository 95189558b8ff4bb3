"""Runs: the files of a training, and its environment, agent and policy rebuilt from them."""
