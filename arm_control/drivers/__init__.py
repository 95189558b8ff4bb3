"""Drivers: the arm on the other end of a control loop.

`base` is the interface between a control loop and an arm, `opening` finds drivers by name, `conformance` checks one
against the interface. `simulation` is the simulated arm, `dynamixel` an arm of DYNAMIXEL servos, and `emulator` stands
in for such servos on a virtual serial port. The rooms above (`runner` and up) may import this one; it imports `runs`,
`process` and `envs`. Only `simulation` loads PyBullet, and only when the driver `sim` is opened.
"""
