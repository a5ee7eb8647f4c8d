"""What may be drawn of some logits, and how likely: penalties, temperature, top-k, top-p and min-p.

Oracle: transformers' logits processors, in the order of its `generate`; for frequency and presence,
which it does not have, the formula of OpenAI's API reference, written out below.
Out: sampling/cases.json, a list of cases with `probabilities` [V], 0 where nothing may be drawn.
"""

import json
import random
from pathlib import Path

import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 24
CASES = 160


def probabilities(case: dict) -> list[float]:
    logits = torch.tensor([case["logits"]], dtype=torch.float64)
    said = torch.tensor([case["prompt"] + case["text"]], dtype=torch.long)
    if case["repetition"] != 1.0:
        logits = RepetitionPenaltyLogitsProcessor(case["repetition"])(said, logits)
    logits = logits.clone()
    for token in set(case["text"]):
        count = case["text"].count(token)
        logits[0, token] -= count * case["frequency"] + (count > 0) * case["presence"]
    for token, push in case["pushes"]:
        logits[0, token] += push
    logits = TemperatureLogitsWarper(case["temperature"])(said, logits)
    if case["top_k"]:
        logits = TopKLogitsWarper(case["top_k"])(said, logits)
    if case["top_p"] < 1.0:
        logits = TopPLogitsWarper(case["top_p"])(said, logits)
    if case["min_p"]:
        logits = MinPLogitsWarper(case["min_p"])(said, logits)
    return [round(one, 9) for one in torch.softmax(logits, -1)[0].tolist()]


def write(out: Path) -> None:
    chance = random.Random(14)
    cases = []
    for number in range(CASES):
        some = lambda values: chance.choice(values) if number else values[0]
        case = {
            # Two decimals, all different: no two tokens are equally likely.
            "logits": [one / 100 for one in chance.sample(range(-500, 500), VOCAB)],
            "prompt": [chance.randrange(VOCAB) for _ in range(5)],
            "text": [chance.randrange(VOCAB) for _ in range(chance.randrange(8))],
            "frequency": some([0.0, 0.5, 1.25, -0.75]),
            "presence": some([0.0, 0.3, 2.0, -1.1]),
            "repetition": some([1.0, 1.0, 1.3, 0.7]),
            "pushes": [[chance.randrange(VOCAB), some([0.0, 4.5, -100.0])]],
            "temperature": some([1.0, 0.7, 1.6]),
            "top_k": some([0, 0, 1, 5, 12, 60]),
            "top_p": some([1.0, 1.0, 0.9, 0.5, 0.05]),
            "min_p": some([0.0, 0.0, 0.02, 0.2]),
        }
        cases.append(case | {"probabilities": probabilities(case)})
    folder = out / "sampling"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (folder / "cases.json").write_text(f"[\n{lines}\n]\n")
