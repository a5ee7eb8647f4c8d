"""Is what `sapwood fuse` wrote the base with the adapter, by transformers and PEFT?

Oracle: peft.PeftModel on transformers (requirements.txt), f32, CPU, eager attention; its logits over random tokens beside
those of the fused folder, whose weights are widened to f32.
Command: python tools/golden/check_fused.py BASE ADAPTER_DIR FUSED_DIR [--within 1e-4] [--rows 2] [--tokens 64]
BASE is a Hugging Face folder or a GGUF file. Exit code 1 when a logit differs by more than the tolerance, when the adapter
changes nothing, or when the output layer of one is tied and that of the other is not.
"""

import argparse
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from common import load, random_ids


def load_base(path: Path) -> torch.nn.Module:
    if path.is_file():
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    return load(path)


def is_tied(model: torch.nn.Module) -> bool:
    return model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("fused", type=Path)
    parser.add_argument("--within", type=float, default=1e-4, help="largest absolute difference of a logit")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    base = load_base(arguments.base)
    ids = random_ids("fused", arguments.rows, arguments.tokens, vocabulary=base.config.vocab_size)
    with torch.no_grad():
        bare = base(input_ids=ids, use_cache=False).logits
        stored = AutoModelForCausalLM.from_pretrained(arguments.fused)
        tied = is_tied(stored) == bool(base.config.tie_word_embeddings)
        fused = load(arguments.fused)(input_ids=ids, use_cache=False).logits
        adapted = PeftModel.from_pretrained(base, arguments.adapter).float().eval()(input_ids=ids, use_cache=False).logits
    difference, effect = (fused - adapted).abs().max().item(), (adapted - bare).abs().max().item()
    print(f"max abs difference {difference:.3e} (allowed {arguments.within:.1e}); the adapter moves logits by up to {effect:.3e}")
    if not tied:
        print("the output layer of one is tied, that of the other is not")
    # Written so that a NaN fails.
    return 0 if difference <= arguments.within and effect > 0.0 and tied else 1


if __name__ == "__main__":
    sys.exit(main())
