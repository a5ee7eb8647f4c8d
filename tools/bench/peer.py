"""The peers of the benchmark, one piece of work a process: PyTorch with PEFT, and ONNX Runtime.

`sapwood-bench` runs this file; by hand it is of use only to look at one measurement.
- make: `shape` (random weights, a Hugging Face folder), `unpack` (a model folder of ours as one), `adapters`
  (fast and slow, PEFT folders), `cut` (an ONNX file that ends at a layer boundary).
- measure: `step` (forward, backward, clipping, AdamW, average) and `trunk` (forward). One JSON line on stdout:
  milliseconds of every step, CPU time, memory, and the numbers that must equal ours.
- Each command imports what it needs and no more: a library that is loaded counts as memory.
- Invariant: token ids, clipping, AdamW and the average are those of src/ours.rs beside this file.
Versions: requirements.txt.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SEED = 20261122
RANK, ALPHA, TARGETS = 8, 16, ["q_proj", "v_proj"]
LEARNING_RATE, WEIGHT_DECAY, CLIP, RETAIN, GAMMA = 1e-4, 0.01, 1.0, 0.99, 1.0
# B is zero in a new adapter, and then A gets no gradient: far enough from zero that both do.
B_STD, SLOW_STD = 0.02, 0.005
LINEAR = ("_proj.weight", "lm_head.weight")


def token_ids(first: int, blocks: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Ids that look like no text, the same on both sides; `first` is the number of the first block."""
    rows = range(first, first + blocks)
    return [[(row * 7919 + column * 104729 + 17) % vocabulary for column in range(tokens)] for row in rows]


def status_mb(key: str) -> float:
    """A field of /proc/self/status, given there in kB, in MB of a million bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def used_mb(device: str) -> float | None:
    """Memory of a GPU of NVIDIA's that is used now, by whomever, in MB; none of another device."""
    if not device.startswith("cuda:"):
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", device.removeprefix("cuda:")]
    return float(subprocess.check_output(query, text=True)) * 1024 * 1024 / 1e6


def measure(work, arguments, libraries_mb: float, versions: dict) -> None:
    """Runs `work` warm-up and timed times, and prints the line; the first run gives the numbers to compare."""
    checks, times, loaded_mb = None, [], status_mb("VmRSS")
    for step in range(arguments.warm_up + arguments.steps):
        if step == arguments.warm_up:
            cpu = cpu_seconds()
        start = time.perf_counter()
        found = work()
        elapsed = time.perf_counter() - start
        checks = checks or found
        if step >= arguments.warm_up:
            times.append(elapsed * 1e3)
    line = {
        "step_ms": times, "cpu_ms": (cpu_seconds() - cpu) * 1e3 / len(times), "libraries_mb": libraries_mb,
        "loaded_mb": loaded_mb, "peak_mb": status_mb("VmHWM"), "checks": checks, "versions": versions,
    }
    if arguments.before_mb is not None:
        line["device_mb"] = used_mb(arguments.device) - arguments.before_mb
    print(json.dumps(line), flush=True)


# Making


def whole(path: Path) -> Path:
    """The name to write under until a file or folder is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def save_model(model, config: dict, out: Path) -> None:
    """A Hugging Face folder with the smallest tokenizer file there is: nothing here reads text."""
    partial = whole(out)
    model.save_pretrained(partial)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (partial / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}\n')
    partial.rename(out)


def shape(arguments) -> None:
    """Random weights that are exactly bf16, as published checkpoints are; norms are not all one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = json.loads(arguments.config)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(model.to(torch.bfloat16), {**config, "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}, arguments.out)


def unpack(arguments) -> None:
    """Our model folder's weights, widened to f32, under the names and in the layout of Hugging Face."""
    import onnx
    import torch
    from onnx.numpy_helper import to_array
    from transformers import LlamaConfig, LlamaForCausalLM

    config = json.loads((arguments.model / "config.json").read_text())
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    parameters = dict(model.named_parameters())
    graph = onnx.load(arguments.model / "model.onnx").graph
    values = {tensor.name: to_array(tensor) for tensor in graph.initializer if tensor.name in parameters}
    missing = sorted(parameters.keys() - values.keys())
    if missing:
        sys.exit(f"{arguments.model}/model.onnx has no weight {missing[0]}; expected an export of ours")
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = torch.from_numpy(values[name].astype("float32"))
            parameter.copy_(value.T if name.endswith(LINEAR) else value)
    save_model(model, {**config, "dtype": "float32", "torch_dtype": "float32"}, arguments.out)


def adapters(arguments) -> None:
    """Two adapters of the top layers, `fast` and `slow`, near each other and neither without effect."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    layers = model.config.num_hidden_layers
    chosen = list(range(layers - arguments.layers, layers))
    spec = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, layers_to_transform=chosen)
    torch.manual_seed(SEED)
    model = get_peft_model(model, spec)
    factors = [value for name, value in sorted(model.named_parameters()) if value.requires_grad]
    partial = whole(arguments.out)
    with torch.no_grad():
        for factor in factors:
            if factor.abs().max() == 0.0:
                factor.copy_(B_STD * torch.randn_like(factor))
        model.save_pretrained(partial / "fast")
        for factor in factors:
            factor.add_(SLOW_STD * torch.randn_like(factor))
        model.save_pretrained(partial / "slow")
    partial.rename(arguments.out)


def cut(arguments) -> None:
    """The part of an exported model.onnx below a layer boundary, with its weights."""
    import onnx

    model = onnx.load(arguments.model / "model.onnx")
    boundary, kept = f"model.layers.{arguments.tap}", []
    wanted = {boundary}
    # Nodes stand in the order of their use, so that one walk from the end finds all ancestors.
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    width = json.loads((arguments.model / "config.json").read_text())["hidden_size"]
    output = onnx.helper.make_tensor_value_info(boundary, onnx.TensorProto.FLOAT, ["batch", "sequence", width])
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    graph = onnx.helper.make_graph(kept[::-1], "trunk", list(model.graph.input), [output], initializers)
    partial = whole(arguments.out)
    onnx.save(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), partial)
    partial.rename(arguments.out)


# Measuring


class Learner:
    """The model with its adapter, AdamW over the factors, and the slow factors beside them."""

    def __init__(self, arguments):
        import torch
        from peft import PeftModel
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        self.torch, self.k, self.replay = torch, 0, arguments.replay
        device = torch.device(arguments.device.replace("metal", "mps"))
        kept = torch.bfloat16 if arguments.dtype == "bf16-weights" else torch.float32
        base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=kept).to(device)
        # PEFT makes an adapter of f32 over weights in bf16, unless it is told not to.
        self.llama = PeftModel.from_pretrained(base, arguments.adapters / "fast", is_trainable=True).base_model.model
        self.autocast = lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=arguments.dtype == "bf16")
        named = {name: value for name, value in self.llama.named_parameters() if value.requires_grad}
        slow = load_file(arguments.adapters / "slow" / "adapter_model.safetensors")
        self.fast = list(named.values())
        self.slow = [slow["base_model.model." + name.replace(".default", "")].to(device) for name in named]
        self.optimiser = torch.optim.AdamW(self.fast, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        rows = token_ids(0, arguments.blocks + arguments.replay, arguments.tokens, base.config.vocab_size)
        self.ids = torch.tensor(rows, device=device)

    def run(self, ids):
        """The residual stream before the final norm, and what the norm makes of it."""
        seen = []
        hook = self.llama.model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with self.autocast():
            normed = self.llama.model(input_ids=ids, use_cache=False).last_hidden_state
        hook.remove()
        return seen[0], normed

    def entropy(self, normed, ids):
        """Mean over the labels: all tokens but each block's first."""
        with self.autocast():
            logits = self.llama.lm_head(normed[:, :-1]).flatten(0, 1)
        return self.torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:].flatten())

    def slow_stream(self, ids):
        """The replayed blocks through the slow learner: its factors stand in for the fast ones."""
        with self.torch.no_grad():
            fast = [factor.clone() for factor in self.fast]
            self.torch._foreach_copy_(self.fast, self.slow)
            stream, _ = self.run(ids)
            self.torch._foreach_copy_(self.fast, fast)
        return stream

    def losses(self):
        fresh = len(self.ids) - self.replay
        if not self.replay:
            total = self.entropy(self.run(self.ids)[1], self.ids)
            return {"loss": total}
        old = self.ids[fresh:]
        slow = self.slow_stream(old)
        stream, normed = self.run(self.ids)
        parts = {"ce_fresh": self.entropy(normed[:fresh], self.ids[:fresh]), "ce_replay": self.entropy(normed[fresh:], old)}
        slow = slow.float()
        apart = (stream[fresh:].float() - slow).square().sum(-1) / slow.square().sum(-1)
        parts["distance"] = apart.mean()
        return {"loss": 0.5 * (parts["ce_fresh"] + parts["ce_replay"]) + GAMMA * parts["distance"], **parts}

    def step(self) -> dict[str, float]:
        losses = self.losses()
        losses["loss"].backward()
        norm = self.torch.nn.utils.clip_grad_norm_(self.fast, CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.k += 1
        retain = min(1 - 1 / (self.k + 1), RETAIN)
        with self.torch.no_grad():
            self.torch._foreach_lerp_(self.slow, self.fast, 1 - retain)
        return {name: value.item() for name, value in losses.items()} | {"gradient_norm": norm.item()}


def step(arguments) -> None:
    import peft
    import torch
    import transformers
    from transformers import LlamaForCausalLM  # noqa: F401  (its parts load when they are named)

    libraries_mb = status_mb("VmRSS")
    torch.set_num_threads(arguments.threads)
    learner = Learner(arguments)
    versions = {"PyTorch": torch.__version__, "PEFT": peft.__version__, "transformers": transformers.__version__}
    measure(learner.step, arguments, libraries_mb, versions)


def trunk(arguments) -> None:
    import numpy
    import onnxruntime

    libraries_mb = status_mb("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(arguments.model), options, providers=["CPUExecutionProvider"])
    ids = numpy.array(token_ids(0, arguments.blocks, arguments.tokens, arguments.vocabulary), dtype=numpy.int64)
    kept = {}

    def run() -> dict[str, float]:
        hidden = session.run(None, {"input_ids": ids})[0]
        if not kept:
            # Weighted by place, so that the right numbers at the wrong places do not pass.
            weights = 1.0 + numpy.arange(hidden.size) % 97
            kept["hidden"] = float((numpy.abs(hidden.ravel()) * weights).sum() / hidden.size)
        return kept

    measure(run, arguments, libraries_mb, {"ONNX Runtime": onnxruntime.__version__})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(work, **flags: type) -> None:
        own = commands.add_parser(work.__name__, help=work.__doc__)
        own.set_defaults(work=work)
        for name, kind in flags.items():
            own.add_argument(f"--{name.replace('_', '-')}", type=kind, required=True)

    measured = dict(blocks=int, tokens=int, device=str, threads=int, steps=int, warm_up=int)
    command(shape, config=str, out=Path)
    command(unpack, model=Path, out=Path)
    command(adapters, model=Path, layers=int, out=Path)
    command(cut, model=Path, tap=int, out=Path)
    command(step, model=Path, adapters=Path, replay=int, dtype=str, **measured)
    command(trunk, model=Path, vocabulary=int, **measured)
    arguments = parser.parse_args()
    device = getattr(arguments, "device", "cpu")
    if not device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    arguments.before_mb = used_mb(device)
    arguments.work(arguments)


if __name__ == "__main__":
    main()
