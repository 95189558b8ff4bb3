"""Vectorised environments: many arms at once, in worker processes over shared memory."""
