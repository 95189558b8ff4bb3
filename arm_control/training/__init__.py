"""Training: the loop, the collector that steps the arms, A3C's worker processes, and progress."""
