"""Viewers, which show or save how an arm moves: one file or folder each, found by listing this folder.

Each declares a `Viewer` named VIEWER; the package `common` holds that class and what viewers share. Viewers may import
the rooms from `evaluation` down. A declaration imports no extra package: these wait until its viewer is used.

Viewers run in processes of their own and follow the file that a run records, so that a slow or crashed viewer cannot
stop an arm.
"""
