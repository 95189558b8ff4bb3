"""Recordings in MCAP: `schema` is the format.

`recorder` sends the ticks of a control loop through a `pipe` to the process of `writer`. `scan` reads a file of any
condition; `reading` loads it into memory, `index` opens it at any time, `recovery` rewrites it. `identification`
measures the delay and the lag of the servos, with `identification_motion`, `servo_fit` and `identification_table`.
"""
