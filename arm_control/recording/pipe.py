"""The format of the pipe from a control loop to the process that writes its recording.

A message is a header, then a tick or an event as MessagePack. Its kind is the channel id (`TICK`, `EVENT`) or `END`.
"""

import select
import struct

HEADER = struct.Struct("<HBI")  # length of the message with the header, kind, number of messages dropped before it
END = 3
PIPE_BUF = select.PIPE_BUF  # a message of up to this size is written as a whole or not at all
PIPE_BYTES = 1 << 20  # about 10 s of ticks at 200 Hz
