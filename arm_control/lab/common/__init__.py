"""Shared code of the experiments: declaration, running and resuming, statistics, figures and the page."""
