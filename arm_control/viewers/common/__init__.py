"""Shared code of the viewers: trajectories, live arms, playback, figures and the scene in a browser."""
