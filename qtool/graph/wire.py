"""The fields of a serialised protocol buffer, walked without reading what they hold.

Source: the protocol buffers' documentation, "Encoding".
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Buffer(Protocol):
    """Bytes, or a file that is mapped into memory."""

    def __getitem__(self, index: int, /) -> int: ...


class Field(NamedTuple):
    """A field of a message: its number, its wire type, where its tag begins, and where its content starts and ends."""

    number: int
    kind: int
    begin: int
    start: int
    end: int


def fields(data: Buffer, position: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between `position` and `end`, in order.

    Raises:
        ValueError: it is no message.
    """
    while position < end:
        begin = position
        tag, position = _varint(data, position, end)
        start, kind = position, tag & 7
        if kind == BYTES:
            length, start = _varint(data, position, end)
            position = start + length
        elif kind == VARINT:
            _, position = _varint(data, position, end)
        elif kind in {FIXED64, FIXED32}:
            position += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position > end:
            raise ValueError("a field is longer than its message")
        yield Field(tag >> 3, kind, begin, start, position)


def encoded(number: int, content: bytes) -> bytes:
    """Return a field of wire type `BYTES`, encoded."""
    return _encoded_varint(number << 3 | BYTES) + _encoded_varint(len(content)) + content


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")
    raise ValueError("a number is longer than its message")


def _encoded_varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
