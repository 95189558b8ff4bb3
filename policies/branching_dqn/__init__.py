"""Branching DQN: Q-values of each joint, summed."""
