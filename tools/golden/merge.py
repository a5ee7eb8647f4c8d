"""Updates of several devices merged as products, densely: weights, clip, mean, the best part of rank R.

Oracle: numpy in f64, M written out, LAPACK's SVD. numpy alone, so that it runs without the other packages.
Command: python tools/golden/all.py --out tests/golden --only merge
"""

import json
from pathlib import Path

import numpy as np

SEED, ETA, RANK = 20261126, 0.7, 16
# Layer 0: name, fan_in, fan_out.
MODULES = [("q", 48, 40), ("v", 48, 20), ("down", 64, 48)]
RANKS, TOKENS, BEHIND, SIZES = [4, 8, 16], [1000, 250, 90000], [0, 1, 0], [1.0, 0.4, 9.0]
SCALES = [2.0, 0.5, 1.0]


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file: length of the header, header, numbers."""
    header, at, body = {}, 0, []
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        kind = {"float32": "F32", "float64": "F64"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        body.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(body))


def write(out: Path) -> None:
    chance = np.random.default_rng(SEED)
    tensors, products, globals_ = {}, [{} for _ in RANKS], {}
    for name, fan_in, fan_out in MODULES:
        common = chance.standard_normal((RANK, fan_in)) / np.sqrt(fan_in)
        for who, rank in [("global", RANK), *enumerate(RANKS)]:
            own = chance.standard_normal((rank, fan_in)) / np.sqrt(fan_in)
            # Every device goes along some rows of the global adapter and some of its own.
            a = (own + common[:rank]).astype(np.float32)
            b = chance.standard_normal((fan_out, rank)) / np.sqrt(rank)
            b = (b * (2.0 if who == "global" else SIZES[who])).astype(np.float32)
            tensors[f"{who}.{name}.a"], tensors[f"{who}.{name}.b"] = a, b
            dense = b.astype(np.float64) @ a.astype(np.float64)
            if who == "global":
                globals_[name] = dense
            else:
                products[who][name] = SCALES[who] * dense
    norms = [np.sqrt(sum(np.sum(dense**2) for dense in update.values())) for update in products]
    weights = np.minimum(TOKENS, 4 * np.median(TOKENS)) / np.sqrt(1 + np.array(BEHIND))
    weights = weights / weights.sum()
    clips = np.minimum(1, np.median(norms) / np.array(norms))
    dropped = energy = 0.0
    for name, _, _ in MODULES:
        m = globals_[name] + ETA * sum(w * c * u[name] for w, c, u in zip(weights, clips, products))
        left, values, right = np.linalg.svd(m, full_matrices=False)
        tensors[f"values.{name}"] = values
        tensors[f"merged.{name}"] = (left[:, :RANK] * values[:RANK]) @ right[:RANK]
        dropped += np.sum(values[RANK:] ** 2)
        energy += np.sum(values**2)
    write_tensors(out / "fleet" / "merge.safetensors", tensors)
    facts = {
        "numpy": np.__version__, "eta": ETA, "rank": RANK, "ranks": RANKS, "scales": SCALES, "tokens": TOKENS, "behind": BEHIND,
        "modules": [list(module) for module in MODULES], "norms": norms, "weights": list(weights), "clips": list(clips),
        "dropped": dropped / energy,
    }
    (out / "fleet" / "merge.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
