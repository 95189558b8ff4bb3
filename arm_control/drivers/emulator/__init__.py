"""Emulated DYNAMIXEL servos at a virtual serial port (pty): packets, movement and faults."""
