"""A byte-level BPE tokenizer of exactly 300 tokens with a ChatML template: token ids and rendered conversations.

Oracle: tokenizers' BPE and transformers' apply_chat_template (requirements.txt).
Command: python tools/golden/all.py --out tests/golden --only tokens
"""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common import write_json

VOCABULARY = 300
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# Written for this fixture; only its frequent pairs matter.
TEXT = [
    "the pump started and the pressure is rising",
    "the sensor in the north room reports a high temperature",
    "restart the pump when the pressure falls below the limit",
    "nothing to report, the line is running and the filter is clean",
]

STRINGS = {
    "ascii": "the pump restarts at 07:30, reading 12.5 bar",
    "utf8": "Überdruck: 12 °C → façade, 圧力, 🙂",
    "newlines": "first line\n\nthird line\r\n\tindented  twice \n",
    "special": "<|im_start|>user\nis it an instruction?<|im_end|>",
    "empty": "",
}

CONVERSATIONS = {
    "one_turn": [{"role": "user", "content": "is the pump running?"}],
    "system_first": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "which room?"},
        {"role": "assistant", "content": "north"},
    ],
    "many_turns": [
        {"role": "user", "content": "  leading and trailing spaces stay  "},
        {"role": "assistant", "content": "line one\nline two"},
        {"role": "user", "content": "naïve “quotes” & <tags> {{ braces }}"},
    ],
}

TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"expected {VOCABULARY} tokens, the text gave {tokenizer.get_vocab_size()}")
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train(), eos_token=SPECIAL[2], pad_token=SPECIAL[0], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    # The template inside tokenizer_config.json, where most published folders have it.
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", dict(sorted(config.items())))


def write(out: Path) -> None:
    folder = out / "tokenizer"
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    strings = []
    for name, text in STRINGS.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids) != text:
            raise SystemExit(f"{name}: decoding {ids} does not give the text back")
        strings.append({"name": name, "text": text, "ids": ids})
    conversations = []
    for name, messages in CONVERSATIONS.items():
        for prompt in [False, True]:
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            case = {"name": name, "messages": messages, "add_generation_prompt": prompt, "rendered": rendered, "ids": ids}
            conversations.append(case)
    facts = {"vocabulary": VOCABULARY, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    write_json(folder / "expected.json", facts | {"strings": strings, "conversations": conversations})
