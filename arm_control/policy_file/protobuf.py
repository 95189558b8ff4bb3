"""Reading protobuf messages without their schema: https://protobuf.dev/programming-guides/encoding."""

from collections.abc import Iterator

WORD = 2**64
MOST_NUMBERS = 4096  # in a list that is read, unlike a tensor's values


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, bool]]:
    """Yield field number, value, and True for bytes, of each field. Raises ValueError for an invalid message."""
    place = 0
    while place < len(message):
        # A key: the field's number and its wire type.
        key, place = _varint(message, place)
        number = key >> 3
        wire = key & 7
        if not 0 < number < 2**29:
            raise ValueError("it is not an ONNX model")
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value, False
            continue
        # Types 2 (with a length), 1 and 5 (eight and four bytes); no other is in use.
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("it is not an ONNX model")
        if place + length > len(message):
            raise ValueError("it is not an ONNX model, or is truncated")
        yield number, message[place : place + length], wire == 2
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read an integer of 64 bits, without its sign, at a place; returns it and the place of its end."""
    value = 0
    shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("it is not an ONNX model, or is truncated")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value % WORD, place
        shift += 7


def _signed(value: int) -> int:
    return value - WORD if value >= WORD // 2 else value


class Message:
    """The fields of one message by their numbers. Raises ValueError for invalid messages."""

    def __init__(self, content: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value, is_bytes in fields(content):
            if is_bytes or isinstance(value, int):  # no check depends on floats
                self._fields.setdefault(number, []).append(value)

    def all(self, number: int) -> list[int | memoryview]:
        """All values of a field."""
        return self._fields.get(number, [])

    def bytes(self, number: int) -> list[memoryview]:
        """The byte strings in a field."""
        return [value for value in self.all(number) if isinstance(value, memoryview)]

    def messages(self, number: int) -> list["Message"]:
        """The messages in a repeated field."""
        return [Message(value) for value in self.bytes(number)]

    def message(self, number: int) -> "Message | None":
        """The message in a field. Raises ValueError for several, which protobuf would merge."""
        found = self.messages(number)
        if len(found) > 1:
            raise ValueError(f"it has {len(found)} fields with the number {number}, expected one")
        return found[0] if found else None

    def text(self, number: int) -> str:
        """The text in a field, the last one of several, as in protobuf; empty if there is none."""
        found = self.bytes(number)
        return bytes(found[-1]).decode(errors="replace") if found else ""

    def texts(self, number: int) -> list[str]:
        """The texts in a repeated field."""
        return [bytes(value).decode(errors="replace") for value in self.bytes(number)]

    def number(self, number: int) -> int:
        """The signed integer in a field, the last one of several, as in protobuf; 0 if there is none."""
        found = [value for value in self.all(number) if isinstance(value, int)]
        return _signed(found[-1]) if found else 0

    def numbers(self, number: int) -> tuple[int, ...]:
        """The signed integers in a repeated field, packed or not. Raises ValueError for too many."""
        found: list[int] = []
        for value in self.all(number):
            place = 0
            if isinstance(value, int):
                found.append(_signed(value))
                continue
            while place < len(value) and len(found) <= MOST_NUMBERS:
                one, place = _varint(value, place)
                found.append(_signed(one))
        if len(found) > MOST_NUMBERS:
            raise ValueError(f"it has a list of more than {MOST_NUMBERS} numbers")
        return tuple(found)
