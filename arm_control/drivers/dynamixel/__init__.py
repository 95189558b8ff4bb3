"""The driver of DYNAMIXEL servos: bus, control table, calibration."""
