"""The pipe from a control loop to the process that writes its recording: the head of each message, and its size.

A message is a head and a tick or an event as MessagePack. Its kind is the id of its channel (`TICK`, `EVENT`) or `END`.
"""

import select
import struct

HEADER = struct.Struct("<HBI")  # of a message: its length with this, its kind, how many were dropped before
END = 3
PIPE_BUF = select.PIPE_BUF  # what fits is written as a whole or not at all
PIPE_BYTES = 1 << 20  # about 10 s of ticks at 200 Hz
