"""REINFORCE: Monte Carlo policy gradient."""
