"""GGUF files: tiny models in every encoding, their logits, and the ids of odd text by every kind of tokenizer.

Oracle: llama.cpp (llama-cpp-python) for ids and logits; transformers for logits, over weights that the package gguf
widened; transformers' own reader of GGUF agrees where it says that it knows the file (requirements.txt).
Command: python tools/golden/all.py --out tests/golden --only gguf_files
"""

import ctypes
import json
import random
import tempfile
import unicodedata
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from common import assert_same, generator, load, observe, random_ids, write_json, write_tensors

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"

# Names of `tokenizer.ggml.pre` that src/base/gguf/split.rs takes; the empty one stands for a file without it.
SPLITS = [
    "", "default", "gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt", "olmo", "jais", "trillion",
    "granite-docling", "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "dbrx",
    "smaug-bpe", "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "qwen2",
    "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "kormo",
]

# Blanks, digits, line ends, control characters, marks, scripts, and what only looks like a special token.
TEXTS = [
    "", " ", "  ", "   ", "    ", " a", "  a", "   a  b   c    ", "\t", "\t\ta\t b", "\n", "\n\n", "\n \n", " \n  \n\n x",
    "\r\n", "a\r\n\r\nb\r\n", "\r\r\n\n\r", "trailing   ", "trailing\n\n\n", "the pump restarts at 07:30",
    "1", "12", "123", "1234", "12345678901", "3.14159 -2,718 1e10 0x1F", "a1b22c333d4444", "\u0661\u0662\u0663\u0664", "\u00b2\u00bd\u2167\u2460",
    "don't DON'T we'll WE'LL I'm I'M they've THEY'VE you're YOU'RE he'd HE'D it's IT'S", "'s's'S'\u017f 'll 'x ''t", "o'clock rock'n'roll",
    "Hello, world!", "!!!???...", "a-b_c/d\\e|f", "{[(<>)]}", "== != <= >= => -> := ++ && ||", "#$%^&*~`\"'", "C# f(x) = x**2;", "https://example.org/?q=1&r=%20#top",
    "\u00dcberdruck: 12 \u00b0C \u2192 fa\u00e7ade", "e\u0301 n\u0303 a\u030a \u1e9b\u0323", "na\u00efve \u201cquotes\u201d \u2018x\u2019 \u2014 \u2026", "\u00a0a\u00a0\u00a0b", "a\u3000b\u2003c\u200bd\u2028e\u2029f\u0085g",
    "\u5727\u529b\u304c\u4f4e\u4e0b\u3057\u307e\u3057\u305f\u3002", "\u6e29\u5ea6\u7b49\u4e8e25\u5ea6\uff0c\u6b63\u5e38\u3002", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u041f\u0440\u0438\u0432\u0435\u0442, \u041c\u0418\u0420!", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5",
    "\U0001f642", "\U0001f642\U0001f642 \U0001f469\u200d\U0001f4bb \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea", "\u2764\ufe0f ok", "\U0001d400\U0001d7d8 \U00020000", "\ufeffbom", "\ue000\uf8ff", "\ufffd", "\uffff",
    "\x00", "a\x00b", "\x01\x02\x1f\x7f", "\x1b[31mred\x1b[0m", "\x0b\x0c",
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|>", "<|im_start", "im_end|>", "< |im_end| >", "<|endoftext|><|endoftext|>", " <|im_end|> x", "<tool> <tool>x</tool>",
    "<s>", "</s>", "<s> a</s>", "<unk>", "<pad>", "[INST] x [/INST]", "<0x0A>", "<0x41>B", "\u2581", "\u2581a \u2581", "[PAD900]", "[EMPTY_3]",
]


def scramble(count: int) -> list[str]:
    """Texts of letters, digits, blanks and signs of many scripts that Unicode has had for years."""
    chance = random.Random(7)
    ranges = [(9, 13), (32, 126), (32, 126), (48, 57), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x45F), (0x5D0, 0x5EA),
              (0x660, 0x669), (0x900, 0x96F), (0xE01, 0xE3A), (0x2000, 0x206F), (0x2070, 0x2094), (0x2150, 0x2188), (0x2190, 0x21FF),
              (0x3000, 0x303F), (0x3041, 0x30FF), (0x4E00, 0x4E40), (0xAC00, 0xAC40), (0x1F600, 0x1F640)]
    def letter():
        while True:
            found = chr(chance.randint(*chance.choice(ranges)))
            if unicodedata.category(found) not in {"Cn", "Cs"}:
                return found
    return ["".join(letter() if chance.random() < 0.7 else chance.choice("  \n'1a") for _ in range(40)) for _ in range(count)]


def train(texts: list[str], size: int, pre_tokenizer, alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of BPE; nothing but `pre_tokenizer` cuts the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def lines() -> list[str]:
    """Text to train on: what is odd, several times, so that merges cross whatever a wrong split would leave whole."""
    whole = SPECIAL + ["<tool>", "<s>", "</s>", "<unk>", "<0x"]
    texts = [text for text in TEXTS + scramble(40) if not any(token in text for token in whole)]
    return [f" {text} {text}\n{text}" for text in texts] * 3


def add_bytes(writer: gguf.GGUFWriter, split: str) -> None:
    """Byte-level BPE whose merges were learned without any split: each split shows in the ids."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary, merges = train(lines(), 900, level, sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokens = SPECIAL + sorted(vocabulary, key=vocabulary.get) + ["<tool>", ""]
    tokens += [f"[PAD{len(tokens)}]"]
    types = [3] * 3 + [1] * len(vocabulary) + [4, 1, 5]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    if split:
        writer.add_tokenizer_pre(split)


def pieces() -> tuple[list[str], list[float], list[int]]:
    """SentencePiece's kind of BPE: tokens, scores, types."""
    text = [line.replace(" ", "\u2581") for line in lines()]
    letters = sorted({letter for letter in "".join(TEXTS).replace(" ", "\u2581") if ord(letter) < 0x500 and letter.isprintable()})
    vocabulary, merges = train(text, 700, pre_tokenizers.Split("\u2581", "merged_with_next"), letters + ["\u2581"])
    made = [left + right for left, right in merges if all(letter in letters + ["\u2581"] for letter in left + right)]
    made = sorted(dict.fromkeys(["\u2581" * 2, "\u2581" * 4, "\u2581" * 8, "\u2581" * 3] + made), key=lambda token: token.strip("\u2581") != "")
    single = [token for token in vocabulary if len(token) == 1 and token in letters + ["\u2581"]]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + made + single + ["<tool>"]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(made) + len(single))] + [0.0]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(made) + len(single)) + [4]
    return tokens, scores, types


def add_pieces(writer: gguf.GGUFWriter, **flags: bool) -> int:
    tokens, scores, types = pieces()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in flags.items():
        getattr(writer, f"add_{name}")(value)
    return len(tokens)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary_file(path: Path, add, *arguments, **flags) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    add(writer, *arguments, **flags)
    # llama.cpp loads no file without these, even for its vocabulary alone.
    for name, value in {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32, "head_count": 2}.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    finish(writer)
    path.chmod(0o644)


def ids(path: Path, texts: list[str]) -> tuple[list[int], list[list[int]]]:
    """What a text begins with, and the ids of each, special tokens found in the text."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return (
        model.tokenize(b"", add_bos=True, special=True),
        [model.tokenize(text.encode(), add_bos=False, special=True) if text else [] for text in texts],
    )


def write_tokens(folder: Path) -> None:
    texts = TEXTS + scramble(40)
    facts = {"texts": texts, "ids": [], "bytes": {}, "pieces": {}}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_file(folder / "bytes.gguf", add_bytes, "smollm")
    vocabulary_file(folder / "pieces.gguf", add_pieces)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.gguf"
        cases = [("bytes", split, add_bytes, [split], {}) for split in SPLITS]
        cases += [("pieces", "", add_pieces, [], {}), ("pieces", "plain", add_pieces, [], {"add_space_prefix": False, "add_bos_token": False})]
        for kind, name, add, arguments, flags in cases:
            vocabulary_file(path, add, *arguments, **flags)
            begin, found = ids(path, texts)
            if found not in facts["ids"]:
                facts["ids"].append(found)
            facts[kind][name] = {"begin": begin, "ids": facts["ids"].index(found)}
    (folder / "tokens.json").write_text(json.dumps(facts, ensure_ascii=True, separators=(",", ":")) + "\n")


def quantise(rows: np.ndarray, kind: Q) -> np.ndarray:
    """Rows as ggml quantises them, bytes a row."""
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((rows.shape[0], rows.shape[1] // block * size), dtype=np.uint8)
    pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    library.ggml_quantize_chunk(
        ctypes.c_int(int(kind)), pointer, out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(0),
        ctypes.c_int64(rows.shape[0]), ctypes.c_int64(rows.shape[1]), None)
    return out


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def theirs(name: str) -> str:
    module, end = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        layer, module = module.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[module]}.{end}"
    return f"{NAMES[module]}.{end}"


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k as llama.cpp turns them: halves of a head by turns."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def straight(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def add_facts(writer: gguf.GGUFWriter, config) -> None:
    rope = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(rope, width))


def divisors(rope: dict, width: int) -> np.ndarray:
    """What each plain frequency is divided by, as llama.cpp's converter has it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(head_dim=width, rope_parameters=rope, max_position_embeddings=128)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    return (plain / scaled).numpy().astype(np.float32)


def write_model(path: Path, model, kind_of, add_tokens) -> dict[str, np.ndarray]:
    """Writes the file and gives its weights back as the package gguf widens them, in Hugging Face's order of rows."""
    config = model.config
    architecture = config.model_type if config.model_type in {"qwen2", "qwen3"} else "llama"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    add_facts(writer, config)
    add_tokens(writer)
    wide = {}
    for name, weight in sorted(model.state_dict().items()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = weight.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        heads = heads if architecture == "llama" else None
        rows = turned(weight, heads) if heads else weight
        kind = kind_of(name) if rows.ndim == 2 else Q.F32
        if kind == Q.F32:
            stored, back = rows, rows
            writer.add_tensor(theirs(name), rows)
        elif kind == Q.F16:
            stored = rows.astype(np.float16)
            back = stored.astype(np.float32)
            writer.add_tensor(theirs(name), stored)
        else:
            stored = gguf.quantize(rows, kind) if kind == Q.BF16 else quantise(rows, kind)
            back = gguf.dequantize(stored, kind).reshape(rows.shape)
            writer.add_tensor(theirs(name), stored, raw_dtype=kind)
        wide[name] = straight(back, heads) if heads else back
    finish(writer)
    path.chmod(0o644)
    return wide


def few_tokens(writer: gguf.GGUFWriter) -> None:
    """96 tokens of which one is merged: enough for a model that is only asked for logits."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:92]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(SPECIAL + alphabet + ["!!"])
    writer.add_token_types([3] * 3 + [1] * 93)
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def llama_logits(path: Path, input_ids: torch.Tensor) -> torch.Tensor:
    """llama.cpp's, keys and values in f32."""
    rows = []
    for row in input_ids.tolist():
        model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False)
        model.eval(row)
        rows.append(torch.tensor(np.array(model.scores[: len(row)])))
    return torch.stack(rows)


def write_expected(folder: Path, model, wide: dict[str, np.ndarray], length: int, near: float, reader: bool) -> dict:
    """Logits of the widened weights by transformers, and llama.cpp's, which may be `near`."""
    path = folder / "model.gguf"
    model.load_state_dict({name: torch.tensor(np.array(weight)) for name, weight in wide.items()}, strict=False)
    model.tie_weights()
    input_ids = random_ids(f"gguf {folder.name}", 2, length, vocabulary=model.config.vocab_size)
    expected = observe(model, input_ids)
    expected["llama"] = llama_logits(path, input_ids)
    scale = expected["logits"].abs().max().item()
    difference = (expected["llama"] - expected["logits"]).abs().max().item() / scale
    print(f"  {folder.name}: llama.cpp differs by {difference:.1e} of the largest logit")
    if difference > near:
        raise SystemExit(f"{folder.name}: llama.cpp differs by {difference}, allowed {near}")
    if reader:
        other = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
        assert_same(observe(other, input_ids)["logits"], expected["logits"], f"{folder.name}: transformers' reader", within=1e-4)
    return expected


def write_family(folder: Path, source: Path, kind: Q, length: int, near: float, reader: bool) -> None:
    model = load(source)
    wide = write_model(folder / "model.gguf", model, lambda _: kind, few_tokens)
    write_tensors(folder / "expected.safetensors", write_expected(folder, model, wide, length, near, reader))


# One encoding for each matrix of the two layers; rows of o are 64 long, so blocks of 256 do not fit there.
ENCODINGS = {
    "0.self_attn.q": Q.Q4_0, "0.self_attn.k": Q.Q4_1, "0.self_attn.v": Q.Q5_0, "0.self_attn.o": Q.Q5_1,
    "0.mlp.gate": Q.Q2_K, "0.mlp.up": Q.Q3_K, "0.mlp.down": Q.Q4_K,
    "1.self_attn.q": Q.Q5_K, "1.self_attn.k": Q.F16, "1.self_attn.v": Q.BF16, "1.self_attn.o": Q.Q8_0,
    "1.mlp.gate": Q.Q6_K, "1.mlp.up": Q.Q4_K, "1.mlp.down": Q.Q3_K,
}


def encoding(name: str) -> Q:
    parts = name.split(".")
    if parts[1] != "layers":
        return Q.Q6_K if name.startswith("lm_head") else Q.Q8_0
    return ENCODINGS[".".join(parts[2:5]).removesuffix("_proj")]


def write_quantised(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=len(pieces()[0]), hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    chance = generator(folder.name)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=chance)
            parameter.copy_(1.0 + 0.3 * noise if "norm" in name else noise * (0.3 if "embed" in name else 0.06))
    wide = write_model(folder / "model.gguf", model, encoding, add_pieces)
    # llama.cpp rounds the other side of a product of quantised rows to 8 bits.
    expected = write_expected(folder, model, wide, 12, 5e-2, reader=True)
    for name, weight in wide.items():
        if weight.ndim == 2:
            places = [0, weight.shape[0] // 2 + 1, weight.shape[0] - 1]
            expected[f"rows.{name}"] = torch.tensor(np.array(weight[places]))
    write_tensors(folder / "expected.safetensors", expected)


def write(out: Path) -> None:
    folder = out / "gguf"
    write_tokens(folder / "tokens")
    families = out / "families"
    write_family(folder / "smollm2", families / "smollm2", Q.F32, 12, 1e-4, reader=True)
    write_family(folder / "qwen2", families / "qwen2", Q.F16, 12, 5e-3, reader=True)
    # transformers' reader takes no width of a head from this architecture, and assumes 128.
    write_family(folder / "qwen3", families / "qwen3", Q.F32, 12, 1e-4, reader=False)
    write_family(folder / "llama3", families / "llama3", Q.F32, 24, 1e-4, reader=False)
    write_family(folder / "llama_linear", families / "llama_linear", Q.F32, 24, 1e-4, reader=False)
    write_family(folder / "head_dim", families / "head_dim", Q.BF16, 12, 5e-2, reader=False)
    write_quantised(folder / "quantised")
