"""Adapters as PEFT writes them, with the logits of transformers and PEFT that load them again.

Oracle: PEFT's save_pretrained and PeftModel.from_pretrained on the base of step.py, and on Phi-3 of families.py
(requirements.txt), f32, CPU.
Command: python tools/golden/all.py --out tests/golden --only step,families,adapters
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from common import generator, load, random_ids, write_json, write_tensors

ALL_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "v_proj"]
LENGTH, VOCABULARY = 12, 96

# name: (element type of the file, settings, what a reader of plain LoRA does with it)
ADAPTERS = {
    "f32": (torch.float32, dict(target_modules=ATTENTION), "accept: scale alpha / r = 2, every layer"),
    "f16": (torch.float16, dict(target_modules=ALL_TARGETS, layers_to_transform=[1, 2]), "accept: widen to f32"),
    "bf16": (torch.bfloat16, dict(target_modules=ALL_TARGETS, layers_to_transform=[1, 2]), "accept: widen to f32"),
    "patterns": (
        torch.float32,
        dict(
            target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"q_proj": 2, "model.layers.2.mlp.down_proj": 6},
            alpha_pattern={"v_proj": 16, "model.layers.2.mlp.down_proj": 3},
        ),
        "accept with each module's own r and alpha, or refuse naming rank_pattern and alpha_pattern",
    ),
    "rslora": (torch.float32, dict(target_modules=ATTENTION, use_rslora=True), "scale alpha / sqrt(r) = 4, or refuse naming use_rslora"),
    "regex": (
        torch.float32,
        dict(target_modules=r".*\.layers\.[12]\.(self_attn\.(q|o)_proj|mlp\.up_proj)"),
        "accept by the tensors present, or refuse naming target_modules",
    ),
    "dora": (torch.float32, dict(target_modules=ATTENTION, use_dora=True), "refuse naming use_dora"),
    "modules_to_save": (
        torch.float32, dict(target_modules=ATTENTION, modules_to_save=["lm_head"]), "refuse naming modules_to_save"),
}


def randomise_adapter(model: torch.nn.Module, name: str) -> None:
    """A, B and DoRA's magnitudes: none zero, so that an ignored tensor shows in the logits."""
    chance = generator(f"adapter {name}")
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=chance)
            if "magnitude" in key:
                parameter.mul_(1.0 + 0.2 * noise)
            elif "lora_" in key:
                parameter.copy_(0.15 * noise)
            elif "modules_to_save" in key:
                parameter.add_(0.05 * noise)


def tidy(folder: Path, base: str, promise: str) -> None:
    """Drops the model card and puts the sets of adapter_config.json in order: Python's set order is not stable."""
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    config["base_model_name_or_path"] = base
    write_json(folder / "adapter_config.json", config)
    (folder / "adapter_model.safetensors").chmod(0o644)
    write_json(folder / "facts.json", {"reader": promise})


def write_adapter(base: Path, folder: Path, dtype: torch.dtype, settings: dict, promise: str) -> None:
    spec = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(load(base), spec)
    randomise_adapter(model, folder.name)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, save_embedding_layers=False)
    tidy(folder, f"{base.parent.name}/{base.name}", promise)
    again = PeftModel.from_pretrained(load(base), folder).float().eval()
    input_ids = random_ids(f"adapter ids {folder.name}", 2, LENGTH, vocabulary=VOCABULARY)
    with torch.no_grad():
        logits = again(input_ids=input_ids, use_cache=False).logits
        with again.disable_adapter():
            base_logits = again(input_ids=input_ids, use_cache=False).logits
    if not (logits - base_logits).abs().mean() > 0.05:
        raise SystemExit(f"{folder.name}: the adapter hardly changes the logits, so it tests nothing")
    write_tensors(folder / "expected.safetensors", {"input_ids": input_ids, "logits": logits, "base_logits": base_logits})


def write(out: Path) -> None:
    for name, (dtype, settings, promise) in ADAPTERS.items():
        write_adapter(out / "step" / "base", out / "peft" / name, dtype, settings, promise)
    # Phi-3 keeps q, k and v as one layer, and gate and up as another.
    packed = dict(target_modules="all-linear", rank_pattern={"qkv_proj": 3}, alpha_pattern={"gate_up_proj": 5})
    promise = "accept as an adapter of the parts: A for each, the rows of B divided"
    write_adapter(out / "families" / "phi3", out / "peft" / "packed", torch.float32, packed, promise)
