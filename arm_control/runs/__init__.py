"""Runs: what a training is on disk, and its environment, agent and policy rebuilt from that."""
