"""Emulated DYNAMIXEL servos at a virtual serial port (pty).

From the port down: `emulator` (port, thread and life cycle), `servo_bus` (instructions and replies), `protocol`
(packets), `servo` (registers), `motion` (profile and shaft). `faults` is the syntax of faults, `fault_injection`
applies them. `emulated_arm` is the calibration, start pose and dynamics of an arm built of such servos.
"""
