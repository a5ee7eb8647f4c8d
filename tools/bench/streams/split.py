"""Items to train.txt and test.txt: distinct, at most so many bytes, a tenth held out, the same on every machine.

In: items in the order of their source. Out: two files, UTF-8, LF, a blank line between items, none inside one.
Invariant: no item is in both files, and no line of LINE_BYTES_MIN or more is in two items.
"""

import hashlib
import re
from pathlib import Path

# Train and test together.
BYTES_MAX = 2_200_000
TEST_SHARE = 10
# A shorter item is the end of a section, such as a closing tag.
ITEM_BYTES_MIN = 20
# Shorter lines may be alike by chance: a heading, a brace, one setting.
LINE_BYTES_MIN = 60


def tidy(item: str) -> str:
    """Without blank lines, spaces at the ends of lines, or characters that no one sees."""
    item = item.replace("\u00a0", " ").replace("\r\n", "\n")
    item = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028\u2029\u2060\ufeff]", "", item)
    return "\n".join(line.rstrip() for line in item.split("\n") if line.strip())


def distinct(items: list[str]) -> list[str]:
    """The items, less the long lines that an earlier one has, less what is then empty or there already."""
    kept, lines, wholes = [], set(), set()
    for item in map(tidy, items):
        fresh = "\n".join(line for line in item.split("\n") if not (long(line) and long(line) in lines))
        whole = " ".join(fresh.split())
        # What is left of an item that was mostly a copy is no text any more.
        if len(whole) >= ITEM_BYTES_MIN and 2 * len(fresh) > len(item) and whole not in wholes:
            kept.append(fresh)
            wholes.add(whole)
            lines |= {long(line) for line in fresh.split("\n")}
    return kept


def long(line: str) -> str | None:
    """What two lines that say the same have in common; none for a short line."""
    words = " ".join(line.split())
    return words if len(words.encode()) >= LINE_BYTES_MIN else None


def size(items: list[str]) -> int:
    return sum(len(item.encode()) + 2 for item in items)


def split(items: list[str]) -> tuple[list[str], list[str]]:
    """Train and test, each in the order of the source; chance is the hash of an item."""
    items = distinct(items)
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.encode()).digest())
    room = min(size(items), BYTES_MAX)
    chosen, test, taken = set(), set(), 0
    for item in ranked:
        taken += size([item])
        if taken > room:
            break
        chosen.add(item)
        if taken * TEST_SHARE <= room:
            test.add(item)
    train = [item for item in items if item in chosen and item not in test]
    return train, [item for item in items if item in test]


def write(folder: Path, items: list[str]) -> tuple[list[str], list[str]]:
    """Writes both files and reads them again; what breaks the invariant ends the program."""
    parts = train, test = split(items)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("test", test)):
        path = folder / f"{name}.txt"
        path.write_bytes(("\n\n".join(part) + "\n").encode())
        read = path.read_bytes().decode().removesuffix("\n").split("\n\n")
        if read != part or not all(item.strip() for item in read):
            raise SystemExit(f"{path}: items do not come apart as they were written")
    held_out = {long(line) for item in test for line in item.split("\n")} - {None}
    if set(train) & set(test) or any(long(line) in held_out for item in train for line in item.split("\n")):
        raise SystemExit(f"{folder}: train and test have something in common")
    return parts
