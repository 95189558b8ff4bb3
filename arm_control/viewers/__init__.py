"""Viewers: window, web, page, video and plot, and what they share. May import evaluation and the runner."""
