"""Branching DQN: Q-values of each joint, added up."""
