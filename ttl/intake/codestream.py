"""What a compressed image says of its own size, read before a decoder is let at it.

A decoder takes its memory by what the codestream says, whatever the header around it promised.
"""

import struct

from pydicom.encaps import get_frame

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""JPEG's start-of-frame markers, JPEG-LS's included; not its tables."""


def encoded_frame(pixel_data: bytes) -> bytes:
    """Return the one frame of encapsulated pixel data. Raises `ValueError` for what is damaged."""
    return get_frame(pixel_data, 0, number_of_frames=1)


def stated_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) as a JPEG, JPEG-LS or JPEG 2000 codestream states them, None if it does not."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0:
        if len(frame) < start + 24:
            return None
        width, height, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
        return height - top, width - left
    at = frame.find(b"\xff\xd8", 0, 64) + 2
    while 2 <= at <= len(frame) - 9:
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack(">2H", frame[at + 5 : at + 9])
            return height, width
        at += 2 + int(struct.unpack(">H", frame[at + 2 : at + 4])[0])
    return None


def unpacks_within(frame: bytes, limit: int) -> bool:
    """Return whether a frame in DICOM's run lengths unpacks to at most `limit` bytes."""
    if len(frame) < 64:
        return False
    count = int(struct.unpack("<I", frame[:4])[0])
    if not 1 <= count <= 15:
        return False
    starts = struct.unpack(f"<{count}I", frame[4 : 4 + 4 * count])
    total = 0
    for start, end in zip(starts, (*starts[1:], len(frame)), strict=True):
        if not 64 <= start <= end <= len(frame):
            return False
        at = start
        while at < end and total <= limit:
            head = frame[at]
            if head < 128:
                total += head + 1
                at += head + 2
            else:
                total += 257 - head if head > 128 else 0
                at += 2 if head > 128 else 1
    return total <= limit
