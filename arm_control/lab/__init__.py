"""The lab: claims of policy-gradient theory as experiments, one a file, found by listing this folder.

Each file declares an `Experiment` named EXPERIMENT: its claim, its settings, the cases that are measured, and how they
are judged and drawn. It reads from top to bottom, with its equations, and has a small core that needs nothing else of
the project. The package `common` holds what experiments share. The lab may import the rooms from `comparison` down.
"""
