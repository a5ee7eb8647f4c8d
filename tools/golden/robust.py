"""Weights of updates of which a fifth is hostile, densely: directions, twins, nearest-neighbour mixing, geometric median.

Oracle: numpy in f64, products and mixed updates written out, inner products of what is written out. numpy alone.
`spread`: how far weights from other sketches, drawn by numpy, are from the exact ones, the sum of differences.
Command: python tools/golden/all.py --out tests/golden --only robust
"""

import json
from pathlib import Path

import numpy as np
from merge import write_tensors

SEED, COUNT, HOSTILE, RANK, SIDE, DRAWS = 20261126, 30, 6, 2, 16, 400
# Layer 0: name, fan_in, fan_out.
MODULES = [("q", 24, 20), ("v", 24, 18), ("down", 20, 24)]


def updates(chance: np.random.Generator) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """24 of a common part and as much of their own; three copies of one the other way round, a zero, two of noise."""
    common = {name: (chance.standard_normal((1, fan_in)), chance.standard_normal((out, 1))) for name, fan_in, out in MODULES}
    found = []
    for at in range(COUNT):
        update = {}
        for name, fan_in, out in MODULES:
            a, b = chance.standard_normal((RANK, fan_in)), chance.standard_normal((out, RANK))
            if at < COUNT - 3:
                a[0], b[:, 0] = common[name][0][0], common[name][1][:, 0]
            if at == COUNT - 3:
                b[:] = 0
            update[name] = (a.astype(np.float32), b.astype(np.float32))
        found.append(update)
    for at in range(COUNT - HOSTILE, COUNT - 3):
        found[at] = {name: (a, -b) for name, (a, b) in found[0].items()}
        name = MODULES[0][0]
        found[at][name] = (found[at][name][0] + np.float32(0.01 * at), found[at][name][1])
    return found


def weights(points: np.ndarray | None, gram: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, int]:
    """Steps 1 to 3; `points`: the updates written out, where the middle is found among them and not on the Gram matrix."""
    count, lengths = len(gram), np.sqrt(np.diag(gram))
    heard = lengths > 0
    gram = np.where(np.outer(heard, heard), gram / np.outer(np.where(heard, lengths, 1), np.where(heard, lengths, 1)), 0)
    points = None if points is None else points / np.where(heard, lengths, 1)[:, None]
    votes = np.where(heard, votes, 0) / votes[heard].sum()
    apart = np.where(np.eye(count, dtype=bool), np.inf, 2 - 2 * gram)[np.ix_(heard, heard)]
    usual = np.sort(apart.min(axis=1))[heard.sum() // 2]
    twins = np.outer(heard, heard) & ((gram > 0.98) | (2 - 2 * gram < usual / 2))
    reach = np.linalg.matrix_power(twins.astype(float) + np.eye(count), count) > 0
    shared, hostile, own = votes.copy(), 0.2, votes
    for at in range(count):
        group = own[reach[at]]
        if heard[at]:
            shared[at] *= min(1.0, max(group.max(), group.sum() - hostile) / group.sum())
    taken = max(shared.sum() - hostile, shared.sum() / 2)
    mixing = np.zeros((count, count))
    for at in range(count):
        squares = gram[at, at] + np.diag(gram) - 2 * gram[at]
        # Those as far away as each other, but for rounding, give the same part: updates that are clipped are from a zero.
        order = np.argsort(squares)
        ties = np.cumsum(np.diff(squares[order], prepend=0) > 1e-12 * np.max(np.diag(gram)))
        held = np.bincount(ties, shared[order])
        part = np.clip((taken - np.cumsum(held) + held) / np.where(held > 0, held, 1), 0, 1)
        mixing[at, order] = shared[order] * part[ties] / taken
    part = shared / shared.sum()
    for _ in range(50):
        if points is None:
            mixed = mixing @ gram @ mixing.T
            squares = np.diag(mixed) - 2 * mixed @ part + part @ mixed @ part
        else:
            mixed = mixing @ points
            squares = np.sum((mixed - part @ mixed) ** 2, axis=1)
        near = 1e-6 * np.sqrt(np.max(np.diag(mixed) if points is None else np.sum(mixed**2, axis=1)))
        part = shared / np.maximum(np.sqrt(np.maximum(squares, 0)), near)
        part /= part.sum()
    return part @ mixing, int(np.sum(reach.sum(axis=1) > 1))


def write(out: Path) -> None:
    chance = np.random.default_rng(SEED)
    found, tensors = updates(chance), {}
    for at, update in enumerate(found):
        for name, (a, b) in update.items():
            tensors[f"{at}.{name}.a"], tensors[f"{at}.{name}.b"] = a, b
    products = [{name: b.astype(np.float64) @ a for name, (a, b) in update.items()} for update in found]
    norms = np.array([np.sqrt(sum(np.sum(dense**2) for dense in update.values())) for update in products])
    clips = np.minimum(1, np.median(norms[norms > 0]) / np.maximum(norms, 1e-300))
    longest = np.max(clips * norms)
    points = np.array([np.concatenate([dense.ravel() for dense in update.values()]) for update in products])
    points *= (clips / longest)[:, None]
    votes = np.where(np.arange(COUNT) % 4 == 1, 1 / np.sqrt(2), 1.0)
    exact, twins = weights(points, points @ points.T, votes)

    spread = []
    for draw in range(DRAWS):
        sketches = np.zeros((COUNT, 0))
        for name, fan_in, out_width in MODULES:
            left, right = chance.standard_normal((SIDE, out_width)), chance.standard_normal((fan_in, SIDE))
            one = np.array([(left @ update[name] @ right).ravel() / SIDE for update in products])
            sketches = np.hstack([sketches, one * (clips / longest)[:, None]])
        gram = sketches @ sketches.T
        sketched, _ = weights(None, gram, votes)
        spread.append(np.abs(sketched - exact).sum())
    tensors |= {"exact.gram": points @ points.T, "exact.weights": exact, "sketched.gram": gram, "sketched.weights": sketched}
    write_tensors(out / "fleet" / "robust.safetensors", tensors)
    facts = {
        "numpy": np.__version__, "count": COUNT, "hostile": HOSTILE, "rank": RANK, "twins": twins, "votes": list(votes),
        "modules": [list(module) for module in MODULES], "norms": list(norms), "clips": list(clips),
        "spread": {"draws": DRAWS, "median": np.median(spread), "largest": np.max(spread)},
    }
    (out / "fleet" / "robust.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
