"""Trains the default base from scratch: tokenizer, then model, on general text only.

In: a folder with one folder per source, each holding `train.txt`. Out: a Hugging Face folder.
The schedule follows the share of the budget used (minutes or steps), so that a run always ends
annealed, however slow the machine. Runs given `--steps` repeat on the same machine and threads;
runs given `--minutes` depend on its speed.
Never here: the text of the domains that a device meets later.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch

import model as llama
import tokenizer as bpe

# How to cut a source into documents, and how often each is seen in an epoch. Stories are the plainest
# English and the retention probe; the archaic Bible is half as frequent as its size.
SOURCES = {
    "stories_tinystories": ("<|endoftext|>", 2.0),
    "science_abstracts": ("\n\n", 1.0),
    "rust_docs_book": ("\n\n## ", 1.0),
    "shakespeare": (None, 1.0),
    "bible_kjv": ("\n\n", 0.5),
}
PLAY_BYTES = 4096
T = 256


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with one folder per source")
    parser.add_argument("out", type=Path, help="folder for the trained model")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="wall time of the training loop")
    budget.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--early", type=Path, help="also save a first usable model here")
    parser.add_argument("--early-minutes", type=float, default=12.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--steps-per-report", type=int, default=20)
    return parser.parse_args()


def documents(corpus, name):
    """The documents of one source, without the blank lines around them."""
    cut, _ = SOURCES[name]
    text = (corpus / name / "train.txt").read_text(encoding="utf-8")
    if cut is None:
        parts = scenes(text)
    elif cut.endswith("## "):
        parts = [("" if index == 0 else "## ") + part for index, part in enumerate(text.split(cut))]
    else:
        parts = text.split(cut)
    return [part.strip("\n") for part in parts if part.strip()]


def scenes(text):
    """A play has no documents: pieces of about PLAY_BYTES that end with a speech."""
    pieces, piece, size = [], [], 0
    for speech in text.split("\n\n"):
        piece.append(speech)
        size += len(speech)
        if size >= PLAY_BYTES:
            pieces.append("\n\n".join(piece))
            piece, size = [], 0
    return [*pieces, "\n\n".join(piece)]


def encode(tokenizer, texts):
    """Each document as <s> ... </s>, int16 (V is 4,096)."""
    return [torch.tensor(e.ids + [bpe.EOS], dtype=torch.int16) for e in tokenizer.encode_batch(texts)]


def epoch(sources, chance):
    """Rows [rows, T + 1] of one epoch: <s>, then T tokens of shuffled, packed documents."""
    chosen = []
    for name, texts in sources.items():
        weight = SOURCES[name][1]
        chosen += texts * int(weight)
        chosen += chance.sample(texts, int(len(texts) * (weight % 1)))
    chance.shuffle(chosen)
    stream = torch.cat(chosen)
    # A random start moves the row boundaries from epoch to epoch.
    stream = stream[chance.randrange(T) :]
    stream = stream[: len(stream) // T * T].view(-1, T)
    rows = torch.cat((torch.full((len(stream), 1), bpe.BOS, dtype=torch.int16), stream), dim=1)
    order = list(range(len(rows)))
    chance.shuffle(order)
    return rows[order]


def batches(sources, size, chance):
    """Endless batches [size, T + 1] of int64."""
    while True:
        rows = epoch(sources, chance)
        for start in range(0, len(rows) - size + 1, size):
            yield rows[start : start + size].long()


def optimizer(network, peak):
    """AdamW; norms are not decayed."""
    matrices = [w for w in network.parameters() if w.dim() == 2]
    vectors = [w for w in network.parameters() if w.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)


def rate(peak, share):
    """2 % warm-up, then a cosine to 10 % of the peak; `share` of the budget in [0, 1]."""
    if share < 0.02:
        return peak * max(share, 0.0005) / 0.02
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (share - 0.02) / 0.98)))


def train(args, network, sources, tokenizer):
    """The loop; returns the run's facts for the model card."""
    steps = batches(sources, args.batch_size, random.Random(args.seed))
    adamw = optimizer(network, args.learning_rate)
    began = time.monotonic()
    early, smooth, step = args.early, None, 0
    while True:
        minutes = (time.monotonic() - began) / 60
        share = minutes / args.minutes if args.minutes else step / args.steps
        if share >= 1:
            break
        if early and minutes >= args.early_minutes:
            write(network, tokenizer, early)
            early = None
        for group in adamw.param_groups:
            group["lr"] = rate(args.learning_rate, share)
        rows = next(steps)
        loss = network(rows[:, :-1], rows[:, 1:])
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adamw.step()
        step += 1
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"loss is {value} at step {step}")
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        if step % args.steps_per_report == 0:
            tokens = step * args.batch_size * T
            print(f"step {step} share {share:.3f} loss {smooth:.4f} {tokens / minutes / 60:.0f} tokens/s", flush=True)
    return {"steps": step, "tokens": step * args.batch_size * T, "loss": smooth, "minutes": minutes}


def write(network, tokenizer, folder):
    """The whole model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(tokenizer, folder, llama.CONFIG["max_position_embeddings"])
    llama.save(network, folder)


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    texts = {name: documents(args.corpus, name) for name in SOURCES}
    flat = [text for name in texts for text in texts[name]]
    tokenizer = bpe.train(flat, llama.V)
    bpe.check(tokenizer, flat)
    sources = {name: encode(tokenizer, texts[name]) for name in texts}
    for name, rows in sources.items():
        size, count = sum(len(t.encode()) for t in texts[name]), sum(map(len, rows))
        print(f"{name}: {len(rows)} documents, {size} bytes, {count} tokens", flush=True)
    network = llama.Llama()
    print(f"{sum(w.numel() for w in network.parameters())} parameters", flush=True)
    facts = train(args, network, sources, tokenizer)
    write(network, tokenizer, args.out)
    (args.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
