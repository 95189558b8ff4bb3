"""Reading recordings in any state, damaged ones included, in bounded memory; the only error is ValueError."""

import contextlib
import math
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import lz4.frame
import msgspec
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Footer, Metadata, Schema

from arm_control.process.printing import counted
from arm_control.recording.schema import EVENT, KINDS, METADATA, MOST_JOINTS, PER_JOINT, TICK, Event, Soundness, Tick
from envs.files import open_regular

MAGIC = b"\x89MCAP0\r\n"
DAMAGE = (ValueError, OverflowError, struct.error, McapError)  # errors raised by reading damaged records
MAX_RECORD = 16 << 20  # bytes; the recorder's chunks have 64 kB
# Bound on the unpacked size of all chunks: a ratio to the size of the file, and an allowance for small files. An arm at
# rest, whose rows differ only in their times, has a ratio of 25. The bound keeps the work proportional to the file.
MAX_RATIO = 64
MAX_SMALL = 16 << 20
MOST_FAULTS = 10_000  # after more of them, the rest counts as lost
LONGEST_ROW = 1 << 15  # bytes of JSON; the longest text of an event, all of it escaped, has 18,000
MOST_NULLS = MOST_JOINTS * len(PER_JOINT)
# The field after opcode, length, times, size and checksum of a compressed chunk, by which chunks are searched for.
CHUNK_MARK = b"\x04\0\0\0zstd"
LZ4_MARK = b"\x03\0\0\0lz4"
MARK_OFFSET = 37
MARKS = re.compile(CHUNK_MARK + b"|" + LZ4_MARK)
SEARCHES = 100  # per file: each may need a decompression
READ = {
    Opcode.FOOTER,
    Opcode.SCHEMA,
    Opcode.CHANNEL,
    Opcode.MESSAGE,
    Opcode.CHUNK,
    Opcode.METADATA,
    Opcode.DATA_END,
}


@dataclass(frozen=True)
class Row:
    """A message of a recording, not decoded yet."""

    kind: type[Tick] | type[Event]
    log_time_ns: int
    data: bytes

    @property
    def name(self) -> str:
        """The kind of the message, in lower case."""
        return self.kind.__name__.lower()

    def decode(self, sound: Soundness) -> Tick | Event:
        """Return the tick or event. Raises ValueError if it is not a valid one."""
        if len(self.data) > LONGEST_ROW:
            raise ValueError(f"it has {len(self.data)} bytes")
        try:
            try:
                what = msgspec.json.decode(self.data, type=self.kind)
            except msgspec.ValidationError:
                # Numbers that are not finite are null: retry with NaN in their place.
                if self.data.count(b"null") > MOST_NULLS:
                    raise
                what = msgspec.convert(_with_nan(msgspec.json.decode(self.data)), type=self.kind)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from None
        if (fault := sound.fault(what)) is not None:
            raise ValueError(fault)
        return what


def _with_nan(value: Any) -> Any:
    """A decoded tick with NaN for null, as which JSON encoders write it."""
    if not isinstance(value, dict):
        return value
    replaced = dict(value)
    for name in PER_JOINT:
        numbers = value.get(name)
        if isinstance(numbers, list):
            replaced[name] = [math.nan if number is None else number for number in numbers]
    return replaced


@dataclass
class Scan:
    """The rows of a recording in the order of the file; unreadable parts are counted and skipped.

    The readers of mcap trust the lengths in a file and return truncated records. Records are therefore split here,
    within bounds, and mcap only decodes their contents.
    """

    path: Path
    metadata: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    size: int = 0
    ours: bool = False
    _lost_bytes: int = 0
    _faults: int = 0
    _reason: str = ""
    _crc: int = 0
    unpacked: int = 0
    """Unpacked bytes of all chunks so far."""
    _searches: int = SEARCHES
    _schemas: dict[int, str] = field(default_factory=dict)
    # Defaults to the numbers of the recorder, in case the chunk that defines the channels is damaged.
    _channels: dict[int, type[Tick] | type[Event] | None] = field(default_factory=lambda: {TICK: Tick, EVENT: Event})

    def __post_init__(self) -> None:
        try:
            with open_regular(self.path) as file:
                self.size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise ValueError(f"no recording {self.path}") from None
        except OSError as error:
            raise ValueError(f"cannot read recording {self.path}: {error.strerror}") from None

    @property
    def lost(self) -> str:
        """The number of bytes lost, with the reason; empty if nothing was lost."""
        if not self._faults:
            return ""
        more = f", and {counted(self._faults - 1, 'more fault', form='')}" if self._faults > 1 else ""
        return f"{counted(self._lost_bytes, 'byte', form='')} ({self._reason}{more})"

    def lose(self, size: int, why: str) -> None:
        """Count unreadable bytes; the first reason is kept."""
        self._lost_bytes += size
        self._faults += 1
        self._reason = self._reason or why

    def __iter__(self) -> Iterator[Row]:
        """Iterate over all ticks and events. Raises ValueError, possibly only at the end, for other files."""
        found = False
        with open_regular(self.path) as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{self.path} is no MCAP file" + ("" if self.size else ": it is empty"))
            self._crc = zlib.crc32(MAGIC)
            for row in self._rows(file):
                if not self.ours:
                    break
                found = True
                yield row
        if not self.ours:
            because = f" ({self.lost} cannot be read)" if self.lost else ""
            raise ValueError(f"{self.path} is no recording of arm-control{because}")
        if not found and not self.whole:
            raise ValueError(f"{self.path} holds nothing that can be read: {self.lost or 'it was never closed'}")

    def _rows(self, file: BinaryIO) -> Iterator[Row]:
        in_data = True
        sound_to = file.tell()
        while left := self.size - file.tell():
            if self.hopeless:
                return self.lose(left, "too many faults")
            head = file.read(9)
            if left < 9 or len(head) < 9:
                return self.lose(left, "the file ends within a record")
            code, length = struct.unpack("<BQ", head)
            # A cut or damaged record, or zeros that a file system left after a crash: continue at the next sound chunk.
            if length > left - 9 or code == 0:
                why = "the file ends within a record, or its length is damaged"
                if (found := self._find_chunk(file, sound_to)) is None:
                    return self.lose(left, why)
                self.lose(max(0, found - (self.size - left)), why)
                sound_to = found + len(head)
                file.seek(found)
                continue
            before = self._crc
            self._crc = zlib.crc32(head, before)
            if code not in READ or length > MAX_RECORD:
                self._skip(file, code, length)
                continue
            body = file.read(length)
            try:
                if code == Opcode.FOOTER:
                    footer = Footer.read(stream_of(body))
                    crc = zlib.crc32(head + body[:-4], before)
                    sound = footer.summary_crc in (0, crc) and file.read(len(MAGIC) + 1) == MAGIC and not in_data
                    self.whole = sound and not self._faults
                    return None if sound else self.lose(0, "the index is damaged")
                self._crc = zlib.crc32(body, self._crc)
                if code == Opcode.DATA_END:
                    if int.from_bytes(body, "little") not in (0, before):
                        self.lose(0, "the checksum of the whole is wrong")
                    in_data = False
                    self._crc = 0
                elif in_data:
                    yield from self.rows_of(code, body)
                sound_to = file.tell()
            except DAMAGE as error:
                self.lose(length, str(error) or "a record that is too short")

    def _skip(self, file: BinaryIO, code: int, length: int) -> None:
        """Skip the body of a record that is not needed, or too long; it still counts towards the checksum."""
        if code in READ:
            self.lose(length, f"a record of {length} bytes")
        # Read it in parts, since it may be longer than the memory.
        while length > 0:
            part = file.read(min(length, MAX_RECORD))
            self._crc = zlib.crc32(part, self._crc)
            length -= MAX_RECORD

    def _find_chunk(self, file: BinaryIO, start: int) -> int | None:
        """Return where the next sound chunk begins, searching from `start`, which a damaged length requires."""
        with mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ) as whole:
            mark = MARKS.search(whole, start + MARK_OFFSET)
            while mark is not None and self._searches:
                self._searches -= 1
                begin = mark.start() - MARK_OFFSET
                code, length = struct.unpack_from("<BQ", whole, begin)
                if code == Opcode.CHUNK and length <= min(MAX_RECORD, self.size - begin - 9):
                    with contextlib.suppress(*DAMAGE):
                        _chunk_data(whole[begin + 9 : begin + 9 + length], self._left)
                        return begin
                mark = MARKS.search(whole, mark.start() + 1)
        return None

    @property
    def _left(self) -> int:
        """Bytes that the next chunk may unpack to."""
        return MAX_SMALL + MAX_RATIO * self.size - self.unpacked

    @property
    def hopeless(self) -> bool:
        """True if there are too many faults to read the rest."""
        return self._faults > MOST_FAULTS

    def may_hold(self, channel: int, kind: type[Tick] | type[Event]) -> bool:
        """Return True if messages of a channel are of this kind, or may be because the channel is not known yet."""
        return self._channels.get(channel, kind) is kind

    def rows_in(self, data: bytes) -> Iterator[Row]:
        """Yield the rows of successive records, none of which is a chunk."""
        start = 0
        while start < len(data):
            code, length = struct.unpack_from("<BQ", data, start)
            start += 9 + length
            if start > len(data) or code == Opcode.CHUNK:
                raise ValueError("a chunk that ends within a record")
            yield from self.rows_of(code, data[start - length : start])

    def rows_of(self, code: int, body: bytes, *, again: bool = False) -> Iterator[Row]:
        """Yield the rows of one record; a chunk that is read `again` is not counted again."""
        if code == Opcode.CHUNK:
            data = _chunk_data(body, MAX_RECORD if again else self._left)
            self.unpacked += 0 if again else len(data)
            yield from self.rows_in(data)
        elif code == Opcode.MESSAGE:
            # A message: channel, sequence number, log and publish time, data.
            channel, _, log_time, _ = struct.unpack_from("<HIQQ", body)
            kind = self._channels.get(channel)
            if kind is not None:
                yield Row(kind, log_time, body[22:])
        elif code == Opcode.SCHEMA:
            schema = Schema.read(stream_of(body))
            self._schemas[schema.id] = schema.name if schema.name in KINDS else ""
            self.ours |= schema.name in KINDS
        elif code == Opcode.CHANNEL:
            channel_ = Channel.read(stream_of(body))
            known = channel_.message_encoding == "json"
            self._channels[channel_.id] = KINDS.get(self._schemas.get(channel_.schema_id, "")) if known else None
        elif code == Opcode.METADATA:
            metadata = Metadata.read(stream_of(body))
            if metadata.name == METADATA:
                self.metadata = metadata.metadata
                self.ours = True


def stream_of(body: bytes) -> ReadDataStream:
    """Wrap the body of a record for the decoders of mcap."""
    return ReadDataStream(BytesIO(body))


def _chunk_data(body: bytes, most: int) -> bytes:
    """Unpack a chunk. Raises ValueError if it is damaged or, before unpacking, if it would be larger than `most`."""
    chunk = Chunk.read(stream_of(body))
    size = chunk.uncompressed_size
    if size > MAX_RECORD:
        raise ValueError(f"a chunk of {size} bytes")
    if size > most:
        raise ValueError(f"a chunk of {size} bytes: with those before it, more than {MAX_RATIO} times the file's size")
    # Unpack one byte more than the chunk declares, to detect a larger one.
    try:
        if chunk.compression == "zstd":
            data = zstandard.ZstdDecompressor(max_window_size=MAX_RECORD).stream_reader(chunk.data).read(size + 1)
        elif chunk.compression == "lz4":
            data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size + 1)
        elif chunk.compression == "":
            data = chunk.data
        else:
            raise ValueError(f"a chunk with compression {chunk.compression[:20]!r}; expected zstd, lz4 or none")
    except (zstandard.ZstdError, RuntimeError, EOFError):  # lz4 raises the last two
        raise ValueError("a damaged chunk") from None
    if len(data) != size or chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise ValueError("a damaged chunk")
    return data
