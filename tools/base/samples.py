"""Writes the sample domains that ship beside the default base. Standard library only.

In: a folder (`models/samples`), and the repository's root for its own code and documentation.
Out: <domain>/{train,valid,test}.jsonl, command_phrases_chat/ (prompts and completions) and choices.jsonl.
The same seed and the same repository give the same bytes. `general/` is written by hand and only checked.
Invariant: no line (as each domain's `key` defines it) is in two items, so none is in two splits.
"""

import argparse
import json
import random
from pathlib import Path

from domains import code_and_docs, command_phrases, device_logs, maintenance_notes

SEED = 20261122
# Bytes of text for train, valid, test.
MADE = {
    "device_logs": (device_logs, (90_000, 8_000, 8_000)),
    "command_phrases": (command_phrases, (70_000, 7_000, 7_000)),
    "maintenance_notes": (maintenance_notes, (80_000, 8_000, 8_000)),
}
CODE_BYTES = (40_000, 5_000, 5_000)
CHAT_LINES = (300, 40, 40)
CHOICE_LINES, CHOICES = 60, 4
SPLITS = ("train", "valid", "test")


class Fresh:
    """Lets an item pass if none of its lines was seen in an earlier item."""

    def __init__(self, key):
        self.key, self.seen = key, set()

    def admits(self, item):
        keys = {self.key(line) for line in item.split("\n")} - {None, ""}
        if keys & self.seen:
            return False
        self.seen |= keys
        return True


def fill(candidates, key, sizes):
    """Items for the three splits, in order of `candidates`, each split to its size in bytes."""
    fresh, splits = Fresh(key), []
    for size in sizes:
        chosen, held = [], 0
        while held < size:
            item = next(candidates, None)
            if item is None:
                raise ValueError(f"candidates end {size - held} bytes before the split is full")
            if fresh.admits(item):
                chosen.append(item)
                held += len(item.encode())
        splits.append(chosen)
    return splits


def endless(make, chance):
    while True:
        yield make(chance)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def check(splits, key):
    """Raises if a line is in two splits."""
    sets = [{key(line) for item in split for line in item.split("\n")} - {None, ""} for split in splits]
    for first in range(3):
        for second in range(first):
            if shared := sets[first] & sets[second]:
                raise ValueError(f"{SPLITS[first]} and {SPLITS[second]} share {min(shared)!r}")


def domain(out, name, candidates, key, sizes):
    splits = fill(candidates, key, sizes)
    check(splits, key)
    for split, items in zip(SPLITS, splits):
        write(out / name / f"{split}.jsonl", [{"text": item} for item in items])
        print(f"{name}/{split}: {len(items)} items, {sum(len(i.encode()) for i in items)} bytes")


def chat(out, chance):
    """Prompts and completions of the command domain."""
    pairs = {}
    while len(pairs) < sum(CHAT_LINES):
        phrase, meaning = command_phrases.pair(chance)
        pairs.setdefault(phrase, meaning)
    rows = [{"prompt": f"say: {p}\nmean:", "completion": f" {m}"} for p, m in pairs.items()]
    for split, count in zip(SPLITS, CHAT_LINES):
        write(out / "command_phrases_chat" / f"{split}.jsonl", rows[:count])
        rows = rows[count:]


def choices(out, chance):
    """Which intent has a phrase: one right of CHOICES. No phrase of the training texts is asked."""
    known = (out / "command_phrases" / "train.jsonl").read_text(encoding="utf-8")
    known += (out / "command_phrases_chat" / "train.jsonl").read_text(encoding="utf-8")
    intents = sorted({command_phrases.pair(chance)[1].split(" ")[0] for _ in range(4000)})
    rows, asked = [], set()
    while len(rows) < CHOICE_LINES:
        phrase, meaning = command_phrases.pair(chance)
        if phrase in asked or json.dumps(f"say: {phrase}\nmean:")[1:-1] in known:
            continue
        asked.add(phrase)
        right = meaning.split(" ")[0]
        offered = [right, *chance.sample([i for i in intents if i != right], CHOICES - 1)]
        chance.shuffle(offered)
        texts = [f" {intent}" for intent in offered]
        rows.append({"prompt": f"say: {phrase}\nmean:", "choices": texts, "answer": offered.index(right)})
    write(out / "choices.jsonl", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="models/samples")
    parser.add_argument("--project", type=Path, help="the repository's root: rewrite code_and_docs too")
    args = parser.parse_args()
    for name, (module, sizes) in MADE.items():
        chance = random.Random(f"{SEED} {name}")
        domain(args.out, name, endless(module.item, chance), module.key, sizes)
    chat(args.out, random.Random(f"{SEED} chat"))
    choices(args.out, random.Random(f"{SEED} choices"))
    if args.project:
        items = code_and_docs.items(args.project)
        random.Random(f"{SEED} code").shuffle(items)
        domain(args.out, "code_and_docs", iter(items), code_and_docs.key, CODE_BYTES)


if __name__ == "__main__":
    main()
