"""A3C: asynchronous advantage actor-critic."""
