"""The tokenizer of the default base: a byte-fallback BPE that loses nothing.

In: documents (str). Out: a `tokenizers.Tokenizer` with exactly `vocabulary` tokens:
<unk> 0, <s> 1, </s> 2, the 256 byte tokens <0x00>..<0xFF> 3..258, then characters and merges.

Lossless by construction: no normaliser, spaces stay spaces (so a literal U+2581 survives too), the
pre-tokenizer only cuts, and a character outside the vocabulary becomes its UTF-8 bytes. The byte
tokens are plain vocabulary, not added tokens, so the text "<0x41>" is not mistaken for the byte.
"""

import json
import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ["<unk>", "<s>", "</s>"]
UNK, BOS, EOS = range(3)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# A word takes the space (or one sign) before it, digits stand alone, a run of spaces leaves its last
# one to the word that follows, line ends stay with the spaces before them.
CUTS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

# Always single tokens; of all other characters only the most frequent RARE_KEPT are.
ALPHABET = sorted(set(string.printable) - set("\r\x0b\x0c"))
RARE_KEPT = 12


def pre_tokenizer():
    """Cuts at CUTS, keeps every character."""
    return pre_tokenizers.Split(Regex(CUTS), behavior="isolated")


def train(documents, vocabulary):
    """Learns the merges from `documents` and returns the whole tokenizer."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(BYTES),
        initial_alphabet=ALPHABET,
        limit_alphabet=len(ALPHABET) + RARE_KEPT,
        show_progress=False,
    )
    learner.train_from_iterator(documents, trainer)
    learned = json.loads(learner.to_str())["model"]
    order = sorted(learned["vocab"], key=learned["vocab"].get)
    pieces = SPECIAL + BYTES + order
    if len(pieces) != vocabulary or len(set(pieces)) != vocabulary:
        raise ValueError(f"expected {vocabulary} distinct tokens, got {len(set(pieces))} of {len(pieces)}")
    merges = [tuple(pair) for pair in learned["merges"]]
    return assemble({piece: index for index, piece in enumerate(pieces)}, merges)


def assemble(vocab, merges):
    """The tokenizer around a vocabulary: <s> in front, bytes back to characters when decoding."""
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


LOSSLESS = [
    "",
    " ",
    "  two spaces, then three:   end  ",
    "\n\n\tif x:\n\t\treturn  1\r\n\r\n",
    "Nov 22 07:58:04 jetson-07 kernel: [  12.345678] tegra-i2c 31e0000.i2c: nack from 0x3c (-121)",
    "fn main() {\n    let v: Vec<u8> = vec![0x41; 16]; // <0x41> is text here\n}\n",
    "\u2581 naïve café – “quoted” 日本語 🦀 \u00a0\u200b\u0000\u0001\x7f",
    "prices: 1,234.50 EUR  (±0.5%)\u2028next",
]


def check(tokenizer, texts):
    """Raises unless decode(encode(text)) == text, with <s> in front and never <unk>."""
    for text in [*LOSSLESS, *texts]:
        ids = tokenizer.encode(text).ids
        if ids[0] != BOS or UNK in ids:
            raise ValueError(f"expected <s> first and no <unk>, got {ids[:8]} for {text[:60]!r}")
        back = tokenizer.decode(ids[1:], skip_special_tokens=False)
        if back != text:
            raise ValueError(f"expected {text[:60]!r} back, got {back[:60]!r}")


def save(tokenizer, folder, context):
    """Writes tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": None,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
