"""Random access to recordings of any length in bounded memory, also while they are being written.

Opening reads only the index at the end of the file or, if a crash left none, the headers of the chunks; chunks are read
on access. An hour at 100 Hz opens in a fraction of a second. Files of other writers may have messages outside chunks,
or in any order: ticks are returned in the order of their log times.
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

HEAD = struct.Struct("<BQ")  # header of every record: opcode and length
TIMES = struct.Struct("<QQ")  # first fields of a chunk: first and last log time
MESSAGE_START = struct.Struct("<HIQ")  # first fields of a message: channel, sequence number, log time
CHANNEL_ID = struct.Struct("<H")  # first field of a message index
RUN_BYTES = 1 << 16  # messages outside chunks are read together up to this size
FOOTER_BYTES = HEAD.size + 20 + len(MAGIC)
MAX_INDEX = 256 << 20
MOST_METADATA = 16  # metadata records that are read; the recorder writes one
KEPT_BYTES = 8 << 20  # of JSON whose ticks are cached
ROUNDING_S = 1e-3


class Span(NamedTuple):
    """Place and log times of a chunk, header included, or of a run of messages outside chunks."""

    offset: int
    length: int
    start_ns: int
    end_ns: int
    channels: frozenset[int] | None  # channels with messages in it; None if unknown
    is_run: bool = False


class IndexedRecording:
    """A recording whose ticks are read on access, from any thread. Times are those of the ticks, in seconds."""

    def __init__(self, path: str | Path) -> None:
        """Open the file. Raises ValueError if it is no recording of arm-control or holds no readable tick."""
        self._scan = scan = Scan(Path(path))
        self.path = scan.path
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[list[Tick], int]] = OrderedDict()  # ticks and bytes by chunk offset
        self._kept_bytes = 0
        self._bad: set[tuple[int, int]] = set()  # unreadable: chunk offset and row number, 0 for the whole chunk
        self._read: set[int] = set()  # offsets of the chunks unpacked so far
        self._sound = Soundness(None)
        self._zero_ns: int | None = None  # log time that corresponds to 0 s
        self._at = len(MAGIC)  # end of the part whose headers were read, if there is no index
        self._file = open_regular(self.path)
        self.growing = self._is_locked()
        """True if the file is still being written."""
        # The size is taken after the lock is tested, so that the last records are not missed.
        scan.size = self.path.stat().st_size
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path} is no MCAP file" + ("" if scan.size else ": it is empty"))
            spans = self._spans_of_index() or list(self._spans_of_heads())
            # The first chunk of the file defines the channels.
            if spans:
                self._rows(min(spans))
            if not scan.ours:
                raise ValueError(f"{path} is no recording of arm-control{self._because}")
            try:
                names = joint_names(self.metadata)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            self._sound.joints = None if names is None else len(names)
            # Find the first and the last tick, and the events.
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
        """The metadata of the recording."""
        return self._scan.metadata

    @property
    def lost(self) -> str:
        """The unreadable part found so far, with the reason; empty if there is none."""
        return self._scan.lost

    @property
    def _because(self) -> str:
        return f" ({self.lost} cannot be read)" if self.lost else ""

    @property
    def missing(self) -> str:
        """All known gaps: ticks that the loop dropped, and the unreadable part found so far."""
        dropped = [event.text for event in self.events if event.kind == "drops"]
        return "; ".join(filter(None, (*dropped, self.lost)))

    def __iter__(self) -> Iterator[Tick]:
        """Iterate over all ticks in the order of their times."""
        spans = self._spans
        waiting: list[tuple[float, int, Tick]] = []  # heap of ticks that later chunks may still precede
        count = 0
        for span, following in zip_longest(spans, spans[1:]):
            with self._lock:
                ticks = self._ticks_in(span)
            for tick in ticks:
                heapq.heappush(waiting, (tick.time_s, count, tick))
                count += 1
            # All later chunks begin no earlier than the next one: ticks before that are complete.
            known_to_s = math.inf if following is None else self._seconds(following.start_ns)
            while waiting and waiting[0][0] < known_to_s:
                yield heapq.heappop(waiting)[2]

    def ticks(self, start_s: float, end_s: float, most: int | None = None) -> list[Tick]:
        """Return the ticks between two times, both included, in order; thinned to about `most` if there are more."""
        with self._lock:
            spans = self._spans_between(start_s, end_s)
            step = 1
            # Estimate the number of ticks from three chunks; thin out the chunks first, then the ticks in each.
            if most is not None and spans:
                sampled = [spans[len(spans) * part // 4] for part in (1, 2, 3)]
                in_each = max(1, *(len(self._ticks_in(span)) for span in sampled))
                if len(spans) * in_each > most:
                    spans = spans[:: -(-len(spans) // most)]
                    step = max(1, len(spans) * in_each // most)
            found = []
            for span in spans:
                thinned = self._ticks_in(span)[::step]
                found += [tick for tick in thinned if start_s <= tick.time_s <= end_s]
        return sorted(found, key=lambda tick: tick.time_s)

    def refresh(self) -> bool:
        """Read what was written since the last call. Returns True if there was anything."""
        if not self.growing:
            return False
        with self._lock:
            # The lock is tested before the size is taken, so that the last records are not missed.
            self.growing = self._is_locked()
            self._scan.size = self.path.stat().st_size
            spans = list(self._spans_of_heads())
            self._take_in(spans)
        return bool(spans)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_locked(self) -> bool:
        """Return True if another process is still writing the file."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(self._file, fcntl.LOCK_UN)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        return False

    def _take_in(self, spans: list[Span]) -> None:
        """Add chunks, and update the range of times and the events."""
        if not spans:
            return
        self._spans = sorted((*self._spans, *spans), key=lambda span: span.start_ns)
        # The first tick is in one of the chunks that begin first.
        for span in sorted(spans, key=lambda span: span.start_ns):
            if self._zero_ns is not None and self._seconds(span.start_ns) > self.start_s:
                break
            self.start_s = min([self.start_s, *(tick.time_s for tick in self._ticks_in(span))])
        # The last tick is in one of the chunks that end last.
        for span in sorted(spans, key=lambda span: span.end_ns, reverse=True):
            if self._zero_ns is not None and self._seconds(span.end_ns) < self.end_s:
                break
            self.end_s = max([self.end_s, *(tick.time_s for tick in self._ticks_in(span))])
        # The chunks of a range of times are found by bisection over their starts.
        self._starts_s = [self._seconds(span.start_ns) for span in self._spans]
        self._longest_s = max(span.end_ns - span.start_ns for span in self._spans) / 1e9
        self.events = sorted((*self.events, *self._read_events(spans)), key=lambda event: event.time_s)

    def _seconds(self, log_time_ns: int) -> float:
        """Return the time of a tick with this log time."""
        return (log_time_ns - (self._zero_ns or 0)) / 1e9

    def _spans_between(self, start_s: float, end_s: float) -> list[Span]:
        """Return the chunks that begin in a range of times or may extend into it."""
        last = bisect.bisect_right(self._starts_s, end_s + ROUNDING_S)
        first = bisect.bisect_left(self._starts_s, start_s - self._longest_s - ROUNDING_S, 0, last)
        return self._spans[first:last]

    def _read_events(self, spans: list[Span]) -> list[Event]:
        events = []
        for span in spans:
            if self._may_have_events(span):
                events += [what for _, what in self._decoded(span, Event) if isinstance(what, Event)]
        return events

    def _may_have_events(self, span: Span) -> bool:
        return span.channels is None or any(self._scan.may_hold(channel, Event) for channel in span.channels)

    def _ticks_in(self, span: Span) -> list[Tick]:
        """Return the ticks of a chunk, from the cache if it was read recently."""
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
        # Cache the ticks; drop the least recently used chunks beyond `KEPT_BYTES`.
        self._kept[span.offset] = ticks, size
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return ticks

    def _decoded(self, span: Span, kind: type[Tick] | type[Event]) -> Iterator[tuple[Row, Tick | Event]]:
        """Yield the valid ticks, or events, of a chunk."""
        for number, row in enumerate(self._rows(span), 1):
            if row.kind is kind:
                try:
                    yield row, row.decode(self._sound)
                except ValueError as error:
                    self._lose(span.offset, number, len(row.data), str(error))
                    if self._scan.hopeless:
                        return

    def _lose(self, offset: int, number: int, size: int, why: str) -> None:
        """Count an unreadable chunk or row, once for all attempts to read it."""
        if (offset, number) not in self._bad:
            self._bad.add((offset, number))
            self._scan.lose(size, why)

    def _rows(self, span: Span) -> list[Row]:
        """Return the readable rows of a chunk."""
        rows: list[Row] = []
        if self._scan.hopeless:
            return rows
        if span.length > HEAD.size + MAX_RECORD:
            self._lose(span.offset, 0, span.length, f"a record of {span.length} bytes")
            return rows
        # Read the record that the index places here.
        self._file.seek(min(span.offset, self._scan.size))  # an offset may be damaged
        record = self._file.read(min(span.length, self._scan.size))
        try:
            if span.is_run:
                rows += self._scan.rows_in(record)
                return rows
            code, length = HEAD.unpack_from(record)
            if len(record) < span.length or HEAD.size + length != span.length:
                raise ValueError("a chunk that is not where the index places it")
            rows += self._scan.rows_of(code, record[HEAD.size :], again=span.offset in self._read)
            self._read.add(span.offset)
        except DAMAGE as error:
            self._lose(span.offset, 0, span.length, str(error) or "a record that is too short")
        return rows

    def _summary(self) -> bytes | None:
        """Return the index at the end of the file; None if there is none or it is damaged."""
        file = self._file
        size = self._scan.size
        if size < FOOTER_BYTES + len(MAGIC):
            return None
        # The footer says where the index begins.
        file.seek(size - FOOTER_BYTES)
        end = file.read(FOOTER_BYTES)
        code, length = HEAD.unpack_from(end)
        if code != Opcode.FOOTER or length != 20 or not end.endswith(MAGIC):
            return None
        footer = Footer.read(stream_of(end[HEAD.size :]))
        start = footer.summary_start
        length = size - FOOTER_BYTES - start
        if not len(MAGIC) <= start or not 0 < length <= MAX_INDEX:
            return None
        # Its checksum covers the index and the footer up to the checksum; 0 means that there is none.
        file.seek(start)
        index = file.read(length)
        if footer.summary_crc not in (0, zlib.crc32(index + end[: HEAD.size + 16])):
            return None
        return index

    def _spans_of_index(self) -> list[Span]:
        """Return the chunks in the index of the file; none if it is absent, damaged or lacks the metadata."""
        index = self._summary()
        if index is None:
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
                    spans.append(_indexed_span(body))
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
        # Reject overlapping chunks: an index that lists one many times would have it read as often.
        spans.sort(key=lambda span: span.offset)
        if any(after.offset < before.offset + before.length for before, after in pairwise(spans)):
            return []
        return spans

    def _spans_of_heads(self) -> Iterator[Span]:
        """Yield the chunks in the order of the file, reading only headers, up to where it is cut or damaged.

        Successive messages outside chunks form runs. A later call continues where the last one ended.
        """
        file = self._file
        scan = self._scan
        chunk: Span | None = None
        while left := scan.size - self._at:
            at = self._at
            file.seek(at)
            head = file.read(HEAD.size + TIMES.size)
            cut = len(head) < HEAD.size or (length := HEAD.unpack_from(head)[1]) > left - HEAD.size
            # No record has opcode 0: a file system may leave zeros after a crash.
            if cut or head[0] == 0:
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
                chunk = self._chunk_at(at, size, head, 0 if chunk is None else chunk.start_ns)
            elif code == Opcode.MESSAGE_INDEX and chunk is not None and length >= CHANNEL_ID.size:
                # The message indexes after a chunk name its channels.
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
        # The message indexes of the last chunk may be cut off, so its channels count as unknown.
        if chunk is not None:
            yield chunk if chunk.is_run else chunk._replace(channels=None)

    def _chunk_at(self, offset: int, length: int, head: bytes, earlier_ns: int) -> Span:
        """Return the chunk with this header; the one before begins at `earlier_ns`."""
        start_ns, end_ns = TIMES.unpack_from(head, HEAD.size)
        chunk = Span(offset, length, start_ns, end_ns, None)
        if earlier_ns <= start_ns <= end_ns:
            return chunk
        # Out of order, or a damaged header: take the times from the rows.
        times_ns = [row.log_time_ns for row in self._rows(chunk)] or [earlier_ns]
        return chunk._replace(start_ns=min(times_ns), end_ns=max(times_ns))


def _indexed_span(body: bytes) -> Span:
    """Return the chunk that a chunk index describes."""
    chunk = ChunkIndex.read(stream_of(body))
    return Span(
        chunk.chunk_start_offset,
        chunk.chunk_length,
        chunk.message_start_time,
        chunk.message_end_time,
        frozenset(chunk.message_index_offsets) or None,
    )


def _joined(run: Span, message: Span) -> Span | None:
    """Return a run extended by a message; None if the message does not follow it or the run would be too long."""
    length = run.length + message.length
    if not run.is_run or run.offset + run.length != message.offset or length > RUN_BYTES:
        return None
    start_ns = min(run.start_ns, message.start_ns)
    end_ns = max(run.end_ns, message.end_ns)
    channels = (run.channels or frozenset()) | (message.channels or frozenset())
    return Span(run.offset, length, start_ns, end_ns, channels, is_run=True)
