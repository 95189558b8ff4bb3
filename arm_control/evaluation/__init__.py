"""Evaluation on held-out goals: controllers, episodes, references, figures, and the report. May import the runner."""
