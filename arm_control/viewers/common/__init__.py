"""What viewers share: trajectories, live arms, playback, figures and the scene in a browser."""
