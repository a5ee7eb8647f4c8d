"""Bits per byte of a Hugging Face model folder, per domain.

In: a model folder; folders of domains, each with `test.txt` or `test.jsonl` ({"text"} lines, joined by
line ends). Out: one line a domain. The first BYTES bytes are cut into blocks of T tokens, each <s> and
T - 1 tokens of text, so that every token of the text is predicted once:
sum of -log2 p over those tokens / bytes of the text. Document marks `<|endoftext|>` are removed first.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

T = 256
BYTES = 100_000
BLOCKS_AT_ONCE = 8
BOS = 1


def text_of(folder):
    """The held-out text of one domain, or None."""
    if (folder / "test.txt").exists():
        text = (folder / "test.txt").read_text(encoding="utf-8").replace("<|endoftext|>\n", "\n")
    elif (folder / "test.jsonl").exists():
        lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        text = "\n".join(row.get("text") or row["prompt"] + row["completion"] for row in rows)
    else:
        return None
    return text.encode()[:BYTES].decode("utf-8", errors="ignore")


def bits(model, ids):
    """Sum of -log2 p over `ids`, in blocks that start with <s>."""
    total = 0.0
    blocks = [[BOS] + ids[start : start + T - 1] for start in range(0, len(ids), T - 1)]
    for start in range(0, len(blocks), BLOCKS_AT_ONCE):
        batch = blocks[start : start + BLOCKS_AT_ONCE]
        wide = max(map(len, batch))
        # Padding is on the right, where a causal model cannot see it; its labels are masked.
        tokens = torch.tensor([block + [0] * (wide - len(block)) for block in batch])
        labels = torch.tensor([block[1:] + [-100] * (wide - len(block)) for block in batch])
        logits = model(tokens).logits[:, :-1].float()
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
    return total / math.log(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", help="folders that hold domain folders")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    print("| domain | bytes | bytes per token | bits per byte |\n|---|---|---|---|")
    for domain in sorted(path for folder in args.folders for path in folder.iterdir() if path.is_dir()):
        text = text_of(domain)
        if not text:
            continue
        ids, size = tokenizer.encode(text, add_special_tokens=False).ids, len(text.encode())
        with torch.no_grad():
            rate = bits(model, ids) / size
        print(f"| {domain.parent.name}/{domain.name} | {size} | {size / len(ids):.2f} | {rate:.3f} |", flush=True)


if __name__ == "__main__":
    main()
