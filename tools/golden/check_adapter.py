"""Does PEFT load an adapter that Sapwood wrote, and does transformers then give the same logits?

Oracle: peft.PeftModel.from_pretrained on transformers (requirements.txt), f32, CPU.
EXPECTED is a safetensors file with `input_ids` [B, T] (i64 or i32) and `logits` [B, T, V] f32, by Sapwood.
Command: python tools/golden/check_adapter.py BASE_HF ADAPTER_DIR EXPECTED [--within 1e-4]
Exit code 1 when a logit differs by more than the tolerance, or when the adapter changes nothing.
"""

import argparse
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file

from common import load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("expected", type=Path)
    parser.add_argument("--within", type=float, default=1e-4, help="largest absolute difference of a logit")
    arguments = parser.parse_args()
    expected = load_file(arguments.expected)
    input_ids, wanted = expected["input_ids"].long(), expected["logits"].float()
    model = PeftModel.from_pretrained(load(arguments.base), arguments.adapter).float().eval()
    with torch.no_grad():
        got = model(input_ids=input_ids, use_cache=False).logits
        with model.disable_adapter():
            base = model(input_ids=input_ids, use_cache=False).logits
    if got.shape != wanted.shape:
        print(f"logits: expected shape {tuple(wanted.shape)}, PEFT gives {tuple(got.shape)}")
        return 1
    difference, effect = (got - wanted).abs().max().item(), (got - base).abs().max().item()
    print(f"max abs difference {difference:.3e} (allowed {arguments.within:.1e}); the adapter moves logits by up to {effect:.3e}")
    if effect == 0.0:
        print("the adapter changes nothing: its tensors were not found or B is zero")
    # Written so that a NaN fails.
    return 0 if difference <= arguments.within and effect > 0.0 else 1


if __name__ == "__main__":
    sys.exit(main())
