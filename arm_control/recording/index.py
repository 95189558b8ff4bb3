"""Opens a recording at any moment, in bounded memory, however long it is, even while it is being written.

What is read at once is the index at the end of the file or, where a crash left none, the heads of its chunks; the
chunks themselves only as they are looked at. An hour at 100 Hz opens in a fraction of a second. Files of other writers
may have messages outside chunks, or in any order: whatever their order in the file, ticks are read in that of their log
times.
"""

import bisect
import fcntl
import heapq
import math
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

from mcap.opcode import Opcode
from mcap.records import ChunkIndex, Footer, MetadataIndex

from arm_control.recording.scan import DAMAGE, MAGIC, MAX_RECORD, READ, Row, Scan, stream_of
from arm_control.recording.schema import Event, Soundness, Tick, joint_names
from envs.files import open_regular

HEAD = struct.Struct("<BQ")  # of every record: what it is, and how long
TIMES = struct.Struct("<QQ")  # with which a chunk begins
MESSAGE_START = struct.Struct("<HIQ")  # of a message: channel, sequence number, log time
CHANNEL_ID = struct.Struct("<H")  # with which a chunk's index of a channel begins
RUN_BYTES = 1 << 16  # of messages outside chunks that are read together
FOOTER_BYTES = HEAD.size + 20 + len(MAGIC)
MAX_INDEX = 256 << 20
MOST_METADATA = 16  # records of it, of which the recorder writes one
KEPT_BYTES = 8 << 20  # of JSON, the ticks of which stay in memory
ROUNDING_S = 1e-3


class Span(NamedTuple):
    """Where a chunk is in the file, with its head, and the log times in it; or a run of messages outside chunks."""

    offset: int
    length: int
    start_ns: int
    end_ns: int
    channels: frozenset[int] | None  # whose messages are in it; None if the file does not say
    is_run: bool = False


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
                self._rows(min(spans))  # the first in the file, which says how the channels are numbered
            if not scan.ours:
                raise ValueError(f"{path} is no recording of arm-control{self._because}")
            try:
                names = joint_names(self.metadata)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            self._sound.joints = None if names is None else len(names)
            self._spans: list[Span] = []
            self.events: list[Event] = []
            self.start_s = math.inf
            self.end_s = -math.inf
            self._take_in(spans)
            if self.start_s > self.end_s:
                raise ValueError(f"{path} holds no tick, so there is nothing to see{self._because}")
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
        """All ticks, in the order of their times."""
        spans = self._spans
        waiting: list[tuple[float, int, Tick]] = []  # a heap of ticks that later chunks may have earlier ones than
        count = 0
        for span, following in zip_longest(spans, spans[1:]):
            with self._lock:
                ticks = self._ticks_in(span)
            for tick in ticks:
                heapq.heappush(waiting, (tick.time_s, count, tick))
                count += 1
            # No later chunk has anything from before the next one begins.
            known_to_s = math.inf if following is None else self._seconds(following.start_ns)
            while waiting and waiting[0][0] < known_to_s:
                yield heapq.heappop(waiting)[2]

    def ticks(self, start_s: float, end_s: float, most: int | None = None) -> list[Tick]:
        """The ticks from one time to another, both included, in order; of very many only about `most`, evenly."""
        with self._lock:
            spans = self._spans_between(start_s, end_s)
            step = 1
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
        if not spans:
            return
        self._spans = sorted((*self._spans, *spans), key=lambda span: span.start_ns)
        # The first tick is in one of the chunks that begin first, the last in one of those that end last.
        for span in sorted(spans, key=lambda span: span.start_ns):
            if self._zero_ns is not None and self._seconds(span.start_ns) > self.start_s:
                break
            self.start_s = min([self.start_s, *(tick.time_s for tick in self._ticks_in(span))])
        for span in sorted(spans, key=lambda span: span.end_ns, reverse=True):
            if self._zero_ns is not None and self._seconds(span.end_ns) < self.end_s:
                break
            self.end_s = max([self.end_s, *(tick.time_s for tick in self._ticks_in(span))])
        self._starts_s = [self._seconds(span.start_ns) for span in self._spans]
        self._longest_s = max(span.end_ns - span.start_ns for span in self._spans) / 1e9
        self.events = sorted((*self.events, *self._read_events(spans)), key=lambda event: event.time_s)

    def _seconds(self, log_time_ns: int) -> float:
        """The time of a tick with this log time."""
        return (log_time_ns - (self._zero_ns or 0)) / 1e9

    def _spans_between(self, start_s: float, end_s: float) -> list[Span]:
        """The chunks in which there may be ticks of this time: those that begin in it, or reach into it."""
        last = bisect.bisect_right(self._starts_s, end_s + ROUNDING_S)
        first = bisect.bisect_left(self._starts_s, start_s - self._longest_s - ROUNDING_S, 0, last)
        return self._spans[first:last]

    def _read_events(self, spans: list[Span]) -> list[Event]:
        with_events = (span for span in spans if self._may_have_events(span))
        decoded = (what for span in with_events for _, what in self._decoded(span, Event))
        return [what for what in decoded if isinstance(what, Event)]

    def _may_have_events(self, span: Span) -> bool:
        return span.channels is None or any(self._scan.may_hold(channel, Event) for channel in span.channels)

    def _ticks_in(self, span: Span) -> list[Tick]:
        """The ticks of a chunk; those looked at lately are kept."""
        if (kept := self._kept.get(span.offset)) is not None:
            self._kept.move_to_end(span.offset)
            return kept[0]
        ticks = []
        size = 0
        for row, tick in self._decoded(span, Tick):
            if isinstance(tick, Tick):
                if self._zero_ns is None:
                    self._zero_ns = row.log_time_ns - round(1e9 * tick.time_s)
                ticks.append(tick)
                size += len(row.data)
        ticks.sort(key=lambda tick: tick.time_s)
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
        if span.length > HEAD.size + MAX_RECORD:
            self._lose(span.offset, 0, span.length, f"a record of {span.length} bytes")
            return rows
        self._file.seek(min(span.offset, self._scan.size))  # an offset may be damaged
        record = self._file.read(min(span.length, self._scan.size))
        try:
            if span.is_run:
                rows += self._scan.rows_in(record)
                return rows
            code, length = HEAD.unpack_from(record)
            if len(record) < span.length or HEAD.size + length != span.length:
                raise ValueError("a chunk that is not where the index has it")
            rows += self._scan.rows_of(code, record[HEAD.size :], again=span.offset in self._read)
            self._read.add(span.offset)
        except DAMAGE as error:
            self._lose(span.offset, 0, span.length, str(error) or "a record that is too short")
        return rows

    def _spans_of_index(self) -> list[Span]:
        """The chunks by the index at the end of the file; none if it is not there, damaged, or lacks the metadata."""
        file = self._file
        size = self._scan.size
        if size < FOOTER_BYTES + len(MAGIC):
            return []
        file.seek(size - FOOTER_BYTES)
        end = file.read(FOOTER_BYTES)
        code, length = HEAD.unpack_from(end)
        if code != Opcode.FOOTER or length != 20 or not end.endswith(MAGIC):
            return []
        footer = Footer.read(stream_of(end[HEAD.size :]))
        start = footer.summary_start
        length = size - FOOTER_BYTES - footer.summary_start
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
                    channels = frozenset(chunk.message_index_offsets) or None
                    spans.append(Span(chunk.chunk_start_offset, chunk.chunk_length, *times, channels))
                elif code == Opcode.METADATA_INDEX:
                    metadata = MetadataIndex.read(stream_of(body))
                    known = metadata.offset in metadata_at or len(metadata_at) == MOST_METADATA
                    metadata_at.add(metadata.offset)
                    if metadata.length <= MAX_RECORD and not known:
                        self._rows(Span(metadata.offset, metadata.length, 0, 0, frozenset()))
                elif code in (Opcode.SCHEMA, Opcode.CHANNEL):
                    list(self._scan.rows_of(code, body))
        except DAMAGE:
            return []
        if not metadata_at:
            return []
        # Each chunk once: an index that names one many times would have it read as often.
        spans.sort(key=lambda span: span.offset)
        if any(after.offset < before.offset + before.length for before, after in pairwise(spans)):
            return []
        return spans

    def _spans_of_heads(self) -> Iterator[Span]:
        """The chunks one after another, only the heads of which are read, up to where the file is cut or damaged.

        Messages outside chunks are taken together in runs. Called again, it continues from there.
        """
        file = self._file
        scan = self._scan
        chunk: Span | None = None
        while left := scan.size - self._at:
            at = self._at
            file.seek(at)
            head = file.read(HEAD.size + TIMES.size)
            cut = len(head) < HEAD.size or (length := HEAD.unpack_from(head)[1]) > left - HEAD.size
            if cut or head[0] == 0:  # which is no record: a file system may leave zeros after a crash
                if not self.growing:
                    scan.lose(left, "the file ends within a record")
                break
            code = head[0]
            size = HEAD.size + length
            if code in READ and length > MAX_RECORD:
                self._lose(at, 0, length, f"a record of {length} bytes")
            elif code == Opcode.CHUNK and len(head) == HEAD.size + TIMES.size:
                if chunk is not None:
                    yield chunk
                earlier_ns = 0 if chunk is None else chunk.start_ns
                start_ns, end_ns = TIMES.unpack_from(head, HEAD.size)
                chunk = Span(at, size, start_ns, end_ns, None)
                if not earlier_ns <= start_ns <= end_ns:  # out of order, or a damaged head: the ticks know better
                    times_ns = [row.log_time_ns for row in self._rows(chunk)] or [earlier_ns]
                    chunk = chunk._replace(start_ns=min(times_ns), end_ns=max(times_ns))
            elif code == Opcode.MESSAGE_INDEX and chunk is not None and length >= CHANNEL_ID.size:
                channels = (chunk.channels or frozenset()) | {*CHANNEL_ID.unpack_from(head, HEAD.size)}
                chunk = chunk._replace(channels=channels)
            elif code == Opcode.MESSAGE and length >= MESSAGE_START.size:
                channel, _, time_ns = MESSAGE_START.unpack_from(head, HEAD.size)
                message = Span(at, size, time_ns, time_ns, frozenset((channel,)), is_run=True)
                longer = None if chunk is None else _joined(chunk, message)
                if chunk is not None and longer is None:
                    yield chunk
                chunk = longer or message
            elif code in (Opcode.METADATA, Opcode.SCHEMA, Opcode.CHANNEL):
                self._rows(Span(at, size, 0, 0, frozenset()))
            elif code in (Opcode.DATA_END, Opcode.FOOTER):
                break
            self._at += size
        if chunk is not None:
            yield chunk if chunk.is_run else chunk._replace(channels=None)  # whose indexes may be cut off


def _joined(run: Span, message: Span) -> Span | None:
    """A run with the message that follows it; None if it does not, or if the run would be too long."""
    length = run.length + message.length
    if not run.is_run or run.offset + run.length != message.offset or length > RUN_BYTES:
        return None
    start_ns = min(run.start_ns, message.start_ns)
    end_ns = max(run.end_ns, message.end_ns)
    channels = (run.channels or frozenset()) | (message.channels or frozenset())
    return Span(run.offset, length, start_ns, end_ns, channels, is_run=True)
