"""Linear CKA of random features, with bias from products of features and without it from matrices centred for that;
Spearman's rank correlation of random pairs.

Oracle: numpy in f64, without bias by U-centring (Szekely and Rizzo 2014), where our own sums are those of Song et al.;
scipy.stats.spearmanr.
Command: python tools/golden/all.py --out tests/golden --only study
"""

from pathlib import Path

import numpy as np
from merge import write_tensors
from scipy.stats import spearmanr

SEED = 20261127
# Rows, and the widths of both sides: few rows, features beyond them, and so many rows that bias is small.
SHAPES = {"few": (24, 5, 7), "wide": (16, 40, 40), "many": (500, 3, 4)}
# Pairs, and how many values each side may have: few values are often equal.
PAIRS = {"three": (3, 50), "equal": (40, 6), "most": (300, 100_000)}


def centred(gram: np.ndarray) -> np.ndarray:
    """The U-centred matrix of a Gram matrix."""
    n = len(gram)
    gram = gram - np.diag(np.diag(gram))
    sums = gram.sum(axis=1)
    out = gram - sums[:, None] / (n - 2) - sums[None, :] / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
    return out - np.diag(np.diag(out))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 500:
        x, y = (centred(side @ side.T) for side in (x, y))
        return np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
    x, y = (side - side.mean(axis=0) for side in (x, y))
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def write(out: Path) -> None:
    chance = np.random.default_rng(SEED)
    tensors = {}
    for name, (rows, one, two) in SHAPES.items():
        first = chance.standard_normal((rows, one)) + 3.0
        mixed = first @ chance.standard_normal((one, two)) + 0.8 * chance.standard_normal((rows, two))
        first, mixed = first.astype(np.float32), mixed.astype(np.float32)
        tensors[f"{name}.first"], tensors[f"{name}.second"] = first, mixed
        tensors[f"{name}.cka"] = np.array([cka(first.astype(np.float64), mixed.astype(np.float64))]).astype(np.float32)
    write_tensors(out / "study" / "cka.safetensors", tensors)

    tensors = {}
    for name, (count, values) in PAIRS.items():
        first = chance.integers(values, size=count)
        second = first + chance.integers(values, size=count)
        tensors[f"{name}.pairs"] = np.stack([first, second], axis=1).astype(np.float32)
        tensors[f"{name}.rho"] = np.array([spearmanr(first, second).statistic]).astype(np.float32)
    write_tensors(out / "study" / "rank.safetensors", tensors)
