"""Opens a recording at any moment, in bounded memory, however long it is, even while it is being written.

What is read at once is the index at the end of the file or, where a crash left none, the heads of its chunks; the
chunks themselves only as they are looked at. An hour at 100 Hz opens in a fraction of a second.
"""

import bisect
import fcntl
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mcap.opcode import Opcode
from mcap.records import ChunkIndex, Footer, MetadataIndex

from arm_control.recording_reader import DAMAGE, MAGIC, MAX_RECORD, Row, Scan, stream_of
from arm_control.trajectory import EVENT, Event, Soundness, Tick, joint_names
from envs.files import open_regular

HEAD = struct.Struct("<BQ")  # of every record: what it is, and how long
TIMES = struct.Struct("<QQ")  # with which a chunk begins
FOOTER_BYTES = HEAD.size + 20 + len(MAGIC)
MAX_INDEX = 256 << 20
MOST_METADATA = 16  # records of it, of which the recorder writes one
KEPT_BYTES = 8 << 20  # of JSON, the ticks of which stay in memory
ROUNDING_S = 1e-3


class Span(NamedTuple):
    """Where a chunk is in the file, with its head, and the log times in it."""

    offset: int
    length: int
    start_ns: int
    end_ns: int
    events: bool  # whether there are events in it


class IndexedRecording:
    """A recording whose ticks are read as they are asked for, from any thread. Times are those of the ticks, in s."""

    def __init__(self, path: str | Path) -> None:
        """Raises ValueError for what is no recording of arm-control, or one in which there is no tick to be read."""
        self._scan = scan = Scan(Path(path))
        self.path = scan.path
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[list[Tick], int]] = OrderedDict()  # by the offset of the chunk
        self._kept_bytes = 0
        self._bad: set[tuple[int, int]] = set()  # offset of a chunk and number of a row in it, 0 for all of it
        self._read: set[int] = set()  # offsets of chunks that were unpacked
        self._sound = Soundness(None)
        self._zero_ns: int | None = None  # log time of a tick at 0 s
        self._at = len(MAGIC)  # up to where the file is known, if it has no index
        self._file = open_regular(self.path)
        self.growing = self._is_locked()
        """Whether it is still being written."""
        scan.size = self.path.stat().st_size  # after that: what is written before it ends is then not missed
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path} is no MCAP file" + ("" if scan.size else ": it is empty"))
            spans = self._spans_of_index() or list(self._spans_of_heads())
            if spans:
                self._rows(spans[0])  # which says how the channels are numbered
            if not scan.ours:
                raise ValueError(f"{path} is no recording of arm-control{self._because}")
            try:
                names = joint_names(self.metadata)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            self._sound.joints = None if names is None else len(names)
            self._spans: list[Span] = []
            self.events: list[Event] = []
            first = next(filter(None, map(self._ticks_in, sorted(spans, key=lambda span: span.start_ns))), None)
            if first is None:
                raise ValueError(f"{path} holds no tick, so there is nothing to see{self._because}")
            self.start_s = self.end_s = first[0].time_s
            self._take_in(spans)
        except BaseException:
            self._file.close()
            raise

    @property
    def metadata(self) -> dict[str, str]:
        """What was recorded."""
        return self._scan.metadata

    @property
    def lost(self) -> str:
        """What was found to be unreadable so far, and why; empty if nothing was."""
        return self._scan.lost

    @property
    def _because(self) -> str:
        return f" ({self.lost} cannot be read)" if self.lost else ""

    @property
    def missing(self) -> str:
        """What is known to be missing: what the loop had to drop, and what was found to be unreadable so far."""
        dropped = [event.text for event in self.events if event.kind == "drops"]
        return "; ".join(filter(None, (*dropped, self.lost)))

    def __iter__(self) -> Iterator[Tick]:
        """All ticks, in order."""
        for span in self._spans:
            with self._lock:
                ticks = self._ticks_in(span)
            yield from ticks

    def ticks(self, start_s: float, end_s: float, most: int | None = None) -> list[Tick]:
        """The ticks from one time to another, both included, in order; of very many only about `most`, evenly."""
        with self._lock:
            spans, step = self._spans_between(start_s, end_s), 1
            if most is not None and spans:
                in_each = max(1, *(len(self._ticks_in(spans[len(spans) * part // 4])) for part in (1, 2, 3)))
                if len(spans) * in_each > most:
                    spans = spans[:: -(-len(spans) // most)]
                    step = max(1, len(spans) * in_each // most)
            found = [tick for span in spans for tick in self._ticks_in(span)[::step] if start_s <= tick.time_s <= end_s]
        return sorted(found, key=lambda tick: tick.time_s)

    def refresh(self) -> bool:
        """Take in what was written since; whether there was anything. Only while it grows is there."""
        if not self.growing:
            return False
        with self._lock:
            self.growing = self._is_locked()  # first: what is written before it ends is then not missed
            self._scan.size = self.path.stat().st_size
            spans = list(self._spans_of_heads())
            self._take_in(spans)
        return bool(spans)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_locked(self) -> bool:
        """Whether the process that writes the file still does."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(self._file, fcntl.LOCK_UN)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        return False

    def _take_in(self, spans: list[Span]) -> None:
        """Add chunks to those that are known."""
        self._spans = sorted((*self._spans, *spans), key=lambda span: span.start_ns)
        self._starts_s = [(span.start_ns - (self._zero_ns or 0)) / 1e9 for span in self._spans]
        self._longest_s = max(span.end_ns - span.start_ns for span in self._spans) / 1e9
        last = next(filter(None, map(self._ticks_in, reversed(self._spans))))
        self.end_s = max(self.end_s, last[-1].time_s)
        self.events = sorted((*self.events, *self._read_events(spans)), key=lambda event: event.time_s)

    def _spans_between(self, start_s: float, end_s: float) -> list[Span]:
        """The chunks in which there may be ticks of this time: those that begin in it, or reach into it."""
        last = bisect.bisect_right(self._starts_s, end_s + ROUNDING_S)
        first = bisect.bisect_left(self._starts_s, start_s - self._longest_s - ROUNDING_S, 0, last)
        return self._spans[first:last]

    def _read_events(self, spans: list[Span]) -> list[Event]:
        decoded = (what for span in spans if span.events for _, what in self._decoded(span, Event))
        return [what for what in decoded if isinstance(what, Event)]

    def _ticks_in(self, span: Span) -> list[Tick]:
        """The ticks of a chunk; those looked at lately are kept."""
        if (kept := self._kept.get(span.offset)) is not None:
            self._kept.move_to_end(span.offset)
            return kept[0]
        ticks, size = [], 0
        for row, tick in self._decoded(span, Tick):
            if isinstance(tick, Tick):
                if self._zero_ns is None:
                    self._zero_ns = row.log_time_ns - round(1e9 * tick.time_s)
                ticks.append(tick)
                size += len(row.data)
        self._kept[span.offset] = ticks, size
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return ticks

    def _decoded(self, span: Span, kind: type[Tick] | type[Event]) -> Iterator[tuple[Row, Tick | Event]]:
        """The sound ticks, or events, of a chunk."""
        for number, row in enumerate(self._rows(span), 1):
            if row.kind is kind:
                try:
                    yield row, row.decode(self._sound)
                except ValueError as error:
                    self._lose(span.offset, number, len(row.data), str(error))
                    if self._scan.hopeless:
                        return

    def _lose(self, offset: int, number: int, size: int, why: str) -> None:
        """Count what cannot be read, once, however often it is looked at."""
        if (offset, number) not in self._bad:
            self._bad.add((offset, number))
            self._scan.lose(size, why)

    def _rows(self, span: Span) -> list[Row]:
        """What is in a chunk, as far as it can be read."""
        rows: list[Row] = []
        if self._scan.hopeless:
            return rows
        self._file.seek(min(span.offset, self._scan.size))  # an offset may be damaged
        record = self._file.read(min(span.length, self._scan.size))
        try:
            code, length = HEAD.unpack_from(record)
            if len(record) < span.length or HEAD.size + length != span.length:
                raise ValueError("a chunk that is not where the index has it")
            rows += self._scan.rows_of(code, record[HEAD.size :], again=span.offset in self._read)
            self._read.add(span.offset)
        except DAMAGE as error:
            self._lose(span.offset, 0, span.length, str(error) or "a record that is too short")
        return rows

    def _spans_of_index(self) -> list[Span]:
        """The chunks by the index at the end of the file; none if it is not there or damaged."""
        file, size = self._file, self._scan.size
        if size < FOOTER_BYTES + len(MAGIC):
            return []
        file.seek(size - FOOTER_BYTES)
        end = file.read(FOOTER_BYTES)
        code, length = HEAD.unpack_from(end)
        if code != Opcode.FOOTER or length != 20 or not end.endswith(MAGIC):
            return []
        footer = Footer.read(stream_of(end[HEAD.size :]))
        start, length = footer.summary_start, size - FOOTER_BYTES - footer.summary_start
        if not len(MAGIC) <= start or not 0 < length <= MAX_INDEX:
            return []
        file.seek(start)
        index = file.read(length)
        if footer.summary_crc not in (0, zlib.crc32(index + end[: HEAD.size + 16])):
            return []
        spans: list[Span] = []
        metadata_at: set[int] = set()
        at = 0
        try:
            while at < len(index):
                code, length = HEAD.unpack_from(index, at)
                body = index[at + HEAD.size : at + HEAD.size + length]
                at += HEAD.size + length
                if code == Opcode.CHUNK_INDEX:
                    chunk = ChunkIndex.read(stream_of(body))
                    times = chunk.message_start_time, chunk.message_end_time
                    if chunk.chunk_length <= MAX_RECORD:
                        events = EVENT in chunk.message_index_offsets
                        spans.append(Span(chunk.chunk_start_offset, chunk.chunk_length, *times, events))
                elif code == Opcode.METADATA_INDEX:
                    metadata = MetadataIndex.read(stream_of(body))
                    known = metadata.offset in metadata_at or len(metadata_at) == MOST_METADATA
                    metadata_at.add(metadata.offset)
                    if metadata.length <= MAX_RECORD and not known:
                        self._rows(Span(metadata.offset, metadata.length, 0, 0, False))
                elif code in (Opcode.SCHEMA, Opcode.CHANNEL):
                    list(self._scan.rows_of(code, body))
        except DAMAGE:
            return []
        # Each chunk once: an index that names one many times would have it read as often.
        spans.sort(key=lambda span: span.offset)
        if any(after.offset < before.offset + before.length for before, after in pairwise(spans)):
            return []
        return spans

    def _spans_of_heads(self) -> Iterator[Span]:
        """The chunks one after another, only the heads of which are read, up to where the file is cut or damaged.

        Asked again, it goes on from there.
        """
        file, scan, chunk = self._file, self._scan, None
        while left := scan.size - self._at:
            at = self._at
            file.seek(at)
            head = file.read(HEAD.size + TIMES.size)
            cut = len(head) < HEAD.size or (length := HEAD.unpack_from(head)[1]) > left - HEAD.size
            if cut or head[0] == 0:  # which is no record: a file system may leave zeros after a crash
                if not self.growing:
                    scan.lose(left, "the file ends within a record")
                break
            code, size = head[0], HEAD.size + length
            if code == Opcode.CHUNK and len(head) == HEAD.size + TIMES.size and length <= MAX_RECORD:
                if chunk is not None:
                    yield chunk
                earlier_ns = 0 if chunk is None else chunk.start_ns
                start_ns, end_ns = TIMES.unpack_from(head, HEAD.size)
                chunk = Span(at, size, start_ns, end_ns, False)
                if not earlier_ns <= start_ns <= end_ns:  # a damaged head: the ticks know better
                    times_ns = [row.log_time_ns for row in self._rows(chunk)] or [earlier_ns]
                    chunk = chunk._replace(start_ns=min(times_ns), end_ns=max(times_ns))
            elif code == Opcode.MESSAGE_INDEX and chunk is not None:
                chunk = chunk._replace(events=chunk.events or head[HEAD.size : HEAD.size + 2] == bytes([EVENT, 0]))
            elif code == Opcode.METADATA and length <= MAX_RECORD:
                self._rows(Span(at, size, 0, 0, False))
            elif code in (Opcode.DATA_END, Opcode.FOOTER):
                break
            self._at += size
        if chunk is not None:
            yield chunk._replace(events=True)  # whose list of events may be cut off
