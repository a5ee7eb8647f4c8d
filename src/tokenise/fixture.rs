//! Two small tokenizers for the tests, written by hand: as Llama 2 has it, and as GPT-2 has it.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::{Value, json};
use std::path::Path;

/// Ids of both: 3 specials, 256 bytes, and what else is needed.
pub(super) const VOCAB: usize = 320;

/// Byte-fallback BPE with a leading blank and BOS.
pub(super) fn llama() -> Value {
    let mut vocab = serde_json::Map::new();
    let words = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ('a'..='z').map(String::from);
    let merged = ["▁", "▁t", "he", "▁the", "."].map(str::to_owned).into_iter();
    for (id, token) in words.chain(bytes).chain(letters).chain(merged).enumerate() {
        vocab.insert(token, json!(id));
    }
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 8, "strategy":
            "LongestFirst", "stride": 0}, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": [["▁", "t"], ["h", "e"], ["▁t", "he"]]},
    })
}

/// Byte-level BPE without BOS, offsets trimmed as GPT-2's are.
pub(super) fn byte_level() -> Value {
    let mut letters: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    let mut vocab = serde_json::Map::new();
    let tokens = letters.into_iter().map(String::from);
    let merged = ["Ġt", "he", "Ġthe"].map(str::to_owned);
    for (id, token) in tokens.chain(merged).enumerate() {
        vocab.insert(token, json!(id));
    }
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(300, "<|end|>")],
        "normalizer": null, "pre_tokenizer": level, "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [["Ġ", "t"], ["h", "e"], ["Ġt", "he"]]},
    })
}

fn special(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true})
}

/// A model folder with a tokenizer, an end and a chat template.
pub(super) fn folder(tokenizer: &Value, eos: &str, template: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| write_json(&folder.path().join(name), value);
    write("tokenizer.json", tokenizer);
    write("tokenizer_config.json", &json!({"eos_token": eos, "chat_template": template}));
    folder
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}
