"""One-step actor-critic."""
