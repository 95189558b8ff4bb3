"""The driver of arms built of DYNAMIXEL servos, `--driver dynamixel`.

From the wire up: `port` (the serial port), `bus` (registers by name), `control_table` (the registers), `servo_checks`
and `state_reader` (what the driver reads), `driver` (the `Driver`). `calibration` is the file that relates ticks to
degrees, `measuring` and `terminal_operator` measure it.
"""
