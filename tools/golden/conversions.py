"""Adapters in the layouts of llama.cpp and of mlx-lm, over the same numbers as one of PEFT.

Oracles: PEFT's own files and logits; llama.cpp (llama-cpp-python), which loads the GGUF file beside its base and has to give
PEFT's logits; mlx-lm on MLX for the CPU, which makes the layers, saves them, loads them again and gives PEFT's logits
(requirements.txt).
Command: python tools/golden/all.py --out tests/golden --only families,conversions
"""

import json
import shutil
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from adapters import ALL_TARGETS, randomise_adapter, tidy
from common import assert_same, load, random_ids, write_json, write_tensors
from gguf_files import NAMES, Q, few_tokens, finish, turned, write_model

FAMILIES = ["smollm2", "qwen2", "qwen3"]
# The upper two of three layers; v and down have other ranks and alphas in PEFT's file, which the other two must bear in B.
UNEVEN = dict(layers_to_transform=[1, 2], rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 12, "down_proj": 3})
RANK, ALPHA, LENGTH = 4, 8, 12
# llama.cpp sums keys and values in f32 here, in another order; of the largest logit.
NEAR = 2e-5


def modules(folder: Path, uneven: bool):
    """(layer, path in the layer, A, B, alpha / r) of each module of PEFT's file."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in sorted(tensors):
        if not name.endswith("lora_A.weight"):
            continue
        path = name.removeprefix("base_model.model.model.layers.").removesuffix(".lora_A.weight")
        layer, path = path.split(".", 1)
        a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
        alpha = UNEVEN["alpha_pattern"].get(path.split(".")[-1], ALPHA) if uneven else ALPHA
        yield int(layer), path, a.numpy(), b.numpy(), alpha / a.shape[0]


def write_peft(base: Path, folder: Path, settings: dict) -> dict[str, torch.Tensor]:
    """PEFT's files, and its logits [2, 12, 96]."""
    spec = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=ALL_TARGETS, **settings)
    model = get_peft_model(load(base), spec)
    randomise_adapter(model, f"conversions {folder.parent.name} {folder.name}")
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=False)
    tidy(folder, f"{base.parent.name}/{base.name}", "accept")
    (folder / "facts.json").unlink()
    again = PeftModel.from_pretrained(load(base), folder).eval()
    input_ids = random_ids(f"conversions {base.name}", 2, LENGTH, vocabulary=again.config.vocab_size)
    with torch.no_grad():
        logits = again(input_ids=input_ids, use_cache=False).logits
        with again.disable_adapter():
            bare = again(input_ids=input_ids, use_cache=False).logits
    if not (logits - bare).abs().mean() > 0.05:
        raise SystemExit(f"{folder}: the adapter hardly changes the logits, so it tests nothing")
    return {"input_ids": input_ids, "logits": logits}


def write_gguf(base: Path, peft: Path, path: Path) -> None:
    """The file as llama.cpp's own converter lays it out."""
    config = load(base).config
    architecture = config.model_type if config.model_type in {"qwen2", "qwen3"} else "llama"
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads} if architecture == "llama" else {}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(ALPHA))
    for layer, module, a, b, scale in modules(peft, uneven=True):
        name = f"blk.{layer}.{NAMES[module]}.weight"
        count = heads.get(module.split(".")[-1])
        b = turned(b, count) if count else b
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", (b * (scale * a.shape[0] / ALPHA)).astype(np.float32))
    finish(writer)
    path.chmod(0o644)


def llama_logits(base: Path, adapter: Path, input_ids: torch.Tensor) -> torch.Tensor:
    """llama.cpp's over base and adapter, keys and values in f32."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "base.gguf"
        write_model(path, load(base), lambda _: Q.F32, few_tokens)
        for row in input_ids.tolist():
            model = llama_cpp.Llama(
                str(path), lora_path=str(adapter), n_ctx=64, n_threads=1, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False)
            model.eval(row)
            rows.append(torch.tensor(np.array(model.scores[: len(row)])))
    return torch.stack(rows)


def write_mlx(base: Path, peft: Path, folder: Path) -> None:
    """The layers that mlx-lm makes, filled with PEFT's numbers, as mlx-lm's trainer saves them."""
    settings = {"rank": RANK, "scale": ALPHA / RANK, "dropout": 0.0, "keys": sorted({path for _, path, *_ in modules(peft, uneven=False)})}
    model, _ = load_model(base)
    linear_to_lora_layers(model, 2, settings)
    parameters = {}
    for layer, path, a, b, _ in modules(peft, uneven=False):
        parameters[f"model.layers.{layer}.{path}.lora_a"] = mx.array(a.T)
        parameters[f"model.layers.{layer}.{path}.lora_b"] = mx.array(b.T)
    model.update(tree_unflatten(list(parameters.items())))
    adapted = {name: value for name, value in tree_flatten(model.parameters()) if name.rsplit(".", 1)[-1] in {"lora_a", "lora_b"}}
    if sorted(adapted) != sorted(parameters):
        raise SystemExit(f"{folder}: mlx-lm adapts other modules than PEFT")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapters.safetensors", {name: torch.tensor(np.array(value)) for name, value in sorted(adapted.items())})
    write_json(folder / "adapter_config.json", {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings})


def mlx_logits(base: Path, folder: Path, input_ids: torch.Tensor) -> torch.Tensor:
    """mlx-lm's over base and adapter."""
    model, _ = load_model(base)
    model = load_adapters(model, str(folder))
    return torch.tensor(np.array(model(mx.array(input_ids.numpy()))))


def write(out: Path) -> None:
    mx.set_default_device(mx.cpu)
    for family in FAMILIES:
        base, folder = out / "families" / family, out / "conversions" / family
        folder.mkdir(parents=True, exist_ok=True)
        uneven = write_peft(base, folder / "uneven", UNEVEN)
        write_gguf(base, folder / "uneven", folder / "uneven.gguf")
        scale = uneven["logits"].abs().max().item()
        got = llama_logits(base, folder / "uneven.gguf", uneven["input_ids"])
        assert_same(got / scale, uneven["logits"] / scale, f"{family}: llama.cpp", within=NEAR)
        # mlx-lm has one rank and one scale.
        even = write_peft(base, folder / "even", dict(layers_to_transform=[1, 2]))
        write_mlx(base, folder / "even", folder / "mlx")
        scale = even["logits"].abs().max().item()
        got = mlx_logits(base, folder / "mlx", even["input_ids"])
        assert_same(got / scale, even["logits"] / scale, f"{family}: mlx-lm", within=NEAR)
        write_tensors(folder / "expected.safetensors", {
            "input_ids": even["input_ids"], "even": even["logits"], "uneven": uneven["logits"]})
