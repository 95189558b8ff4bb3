"""Drivers: the arm on the other end of a control loop.

`base` is what a loop needs of a driver; each kind of servo has its own folder.
"""
