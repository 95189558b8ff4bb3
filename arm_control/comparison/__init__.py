"""Comparison of agents, and of other libraries' learners, over seeds with the same budget."""
