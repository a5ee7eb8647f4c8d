"""General text for `sapwood stream --general`: some of every source that a base is trained or tested on.

Usage: python3 tools/bench/general.py CORPUS/base OUT
Writes OUT/test.txt: of every folder's test.txt each seventh item from the fourth on, 9,000 characters.
"""

import sys
from pathlib import Path

CHARACTERS = 9_000


def some(text: str) -> str:
    chosen = ""
    for item in text.replace("<|endoftext|>", "").split("\n\n")[3::7]:
        if len(chosen) > CHARACTERS:
            break
        chosen += item.strip() + "\n\n"
    return chosen[:CHARACTERS]


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sources = sorted(path for path in Path(sys.argv[1]).iterdir() if (path / "test.txt").is_file())
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    parts = [some((source / "test.txt").read_text()) for source in sources]
    (out / "test.txt").write_text("\n\n".join(parts))
    # A folder of data has training text; nothing reads this.
    (out / "train.txt").write_text("nothing here\n\nreally\n")


if __name__ == "__main__":
    main()
