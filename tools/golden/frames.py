"""Frames of the serial line, byte by byte, by two packages that know nothing of ours: cobs and crc32c.

One line a case: its name and the frame in hex. The Rust test has the same cases under the same names.
Command: python tools/golden/all.py --out tests/golden --only frames
"""

from pathlib import Path

from cobs import cobs
from crc32c import crc32c

VERSION = 1
TEXT, COMPLETION, PART, ANSWER = range(4)
FIRST, MIDDLE, LAST = range(3)
FIELD_TEXT, FIELD_PROMPT, FIELD_COMPLETION = range(3)
ACCEPTED, FULL, REFUSED = range(3)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def text(value: bytes) -> bytes:
    return varint(len(value)) + value


def frame(session: int, sequence: int, body: bytes, version: int = VERSION) -> str:
    content = bytes([version]) + varint(session) + varint(sequence) + body
    return (cobs.encode(content + crc32c(content).to_bytes(4, "little")) + b"\0").hex()


CASES = {
    "text": frame(7, 0, bytes([TEXT]) + text(b"valve 3 opened")),
    "text_with_umlaut": frame(7, 1, bytes([TEXT]) + text("Öl 80 °C".encode())),
    "zeros": frame(0, 0, bytes([TEXT]) + text(bytes(600))),
    "long": frame(0xFFFFFFFF, 0xFFFFFFFF, bytes([TEXT]) + text(b"x" * 4000)),
    "completion": frame(300, 200, bytes([COMPLETION]) + text(b"status?") + text(b"ok")),
    "first": frame(7, 128, bytes([PART, FIRST, FIELD_PROMPT]) + text(b"what")),
    "middle": frame(7, 129, bytes([PART, MIDDLE, FIELD_COMPLETION]) + text(b"")),
    "last": frame(7, 130, bytes([PART, LAST, FIELD_TEXT]) + text(b"\xff")),
    "accepted": frame(7, 130, bytes([ANSWER, ACCEPTED])),
    "full": frame(0xFFFFFFFF, 0xFFFFFFFF, bytes([ANSWER, FULL])),
    "refused": frame(7, 16384, bytes([ANSWER, REFUSED])),
    "later": frame(7, 0, bytes([TEXT]) + text(b"from later"), version=2),
    # Long runs without a zero, around the 254 bytes of a full COBS block.
    **{f"run_{count}": frame(1, 1, bytes([TEXT]) + text(b"y" * count)) for count in range(236, 250)},
}


def write(out: Path) -> None:
    folder = out / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {line}\n" for name, line in CASES.items()]
    (folder / "frames.txt").write_text("".join(lines), encoding="ascii")
