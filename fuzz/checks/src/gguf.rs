//! GGUF files: the header, and the model and the tokenizer that its metadata describe.
//!
//! - In: the bytes of a file. Promises: tensors lie inside the file and apart; a model that is taken has a
//!   tensor of the right shape for every weight; its small files are JSON, and every merge of the tokenizer
//!   is of two tokens and makes a third.

use crate::Seed;
use sapwood::base::Config;
use sapwood::base::gguf::header::Header;
use sapwood::base::gguf::{Described, describe, tokenizer_files};
use serde_json::Value;
use std::path::Path;

/// Reads the bytes as a file.
pub fn check(bytes: &[u8]) {
    let Ok(header) = Header::read(bytes, bytes.len() as u64) else { return };
    let mut places: Vec<(u64, u64)> = Vec::new();
    for (name, tensor) in &header.tensors {
        assert_eq!(tensor.encoding.bytes(&tensor.shape), Some(tensor.bytes), "{name}");
        places.push((tensor.offset, tensor.offset + tensor.bytes));
    }
    places.sort_unstable();
    assert!(places.iter().all(|(from, to)| from < to && *to <= bytes.len() as u64));
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?}");
    for value in header.values.values() {
        assert!(value.to_string().len() < 512);
        let _ = (value.integer(), value.float(), value.flag(), value.text());
        let _ = (value.integers(), value.floats(), value.texts().map(Iterator::count));
    }
    let path = Path::new("x.gguf");
    if let Ok(files) = tokenizer_files(&header, path) {
        tokenizer(&files);
    }
    let Ok(Described { config, tensors, files }) = describe(&header, None, path) else { return };
    tokenizer(&files);
    for (name, shape) in config.weights() {
        let tensor = &header.tensors[&tensors[&name]];
        assert_eq!(
            tensor.shape.iter().product::<usize>(),
            shape.iter().product::<usize>(),
            "{name}"
        );
    }
    let text = |file: &str| {
        let found = files.iter().find(|(name, _)| *name == file).unwrap();
        std::str::from_utf8(&found.1).unwrap()
    };
    let again = Config::parse(text("config.json"), Some(text("generation_config.json")));
    assert_eq!(again.unwrap(), config);
}

fn tokenizer(files: &[(&str, Vec<u8>)]) {
    let json = |file: &str| -> Value {
        let found = files.iter().find(|(name, _)| *name == file).unwrap();
        serde_json::from_slice(&found.1).unwrap()
    };
    let (tokenizer, _) = (json("tokenizer.json"), json("tokenizer_config.json"));
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    for merge in tokenizer["model"]["merges"].as_array().unwrap() {
        let [left, right] = [0, 1].map(|at| merge[at].as_str().unwrap());
        let known = |text: &str| vocab.contains_key(text);
        assert!(known(left) && known(right) && known(&format!("{left}{right}")), "{merge}");
    }
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        assert_eq!(vocab[added["content"].as_str().unwrap()], added["id"]);
    }
}

/// A file as it is written.
#[derive(Default)]
struct File {
    keys: u64,
    values: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
}

impl File {
    fn value(&mut self, key: &str, kind: u32, bytes: &[u8]) {
        self.keys += 1;
        self.values.extend(text(key));
        self.values.extend(kind.to_le_bytes());
        self.values.extend(bytes);
    }

    fn whole(&mut self, key: &str, number: u32) {
        self.value(key, 4, &number.to_le_bytes());
    }

    fn text(&mut self, key: &str, held: &str) {
        self.value(key, 8, &text(held));
    }

    fn list(&mut self, key: &str, kind: u32, count: usize, bytes: &[u8]) {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.value(key, 9, &[&head, bytes].concat());
    }

    fn texts(&mut self, key: &str, held: &[String]) {
        let bytes: Vec<u8> = held.iter().flat_map(|one| text(one)).collect();
        self.list(key, 8, held.len(), &bytes);
    }

    /// A tensor of zeros in f32.
    fn tensor(&mut self, name: &str, shape: &[u64]) {
        self.tensors += 1;
        self.infos.extend(text(name));
        self.infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|width| self.infos.extend(width.to_le_bytes()));
        self.infos.extend(0u32.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        let length = self.data.len() + shape.iter().product::<u64>() as usize * 4;
        self.data.resize(length.next_multiple_of(32), 0);
    }

    fn bytes(self) -> Vec<u8> {
        let counts = [self.tensors.to_le_bytes(), self.keys.to_le_bytes()].concat();
        let mut bytes = [b"GGUF", &3u32.to_le_bytes()[..], &counts].concat();
        bytes.extend(self.values);
        bytes.extend(self.infos);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(self.data);
        bytes
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A decoder of one layer, two wide, for this many tokens.
fn decoder(architecture: &str, tokens: u64) -> File {
    let mut file = File::default();
    file.text("general.architecture", architecture);
    for (key, number) in [
        ("block_count", 1),
        ("context_length", 8),
        ("embedding_length", 4),
        ("feed_forward_length", 2),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file.whole(&format!("{architecture}.{key}"), number);
    }
    let eps = format!("{architecture}.attention.layer_norm_rms_epsilon");
    file.value(&eps, 6, &1e-5f32.to_le_bytes());
    file.tensor("token_embd.weight", &[4, tokens]);
    file.tensor("output_norm.weight", &[4]);
    for (name, shape) in [
        ("attn_norm", &[4][..]),
        ("attn_q", &[4, 4]),
        ("attn_k", &[4, 2]),
        ("attn_v", &[4, 2]),
        ("attn_output", &[4, 4]),
        ("ffn_norm", &[4]),
        ("ffn_gate", &[4, 2]),
        ("ffn_up", &[4, 2]),
        ("ffn_down", &[2, 4]),
    ] {
        file.tensor(&format!("blk.0.{name}.weight"), shape);
    }
    if architecture == "qwen2" {
        for (name, width) in [("attn_q", 4), ("attn_k", 2), ("attn_v", 2)] {
            file.tensor(&format!("blk.0.{name}.bias"), &[width]);
        }
    }
    file
}

/// A model of either architecture and either kind of tokenizer.
pub fn seeds() -> Vec<Seed> {
    let owned = |texts: &[&str]| texts.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let words = owned(&["<|end|>", "a", "b", "ab", "\u{120}", "\u{120}a", "", "<x>"]);
    let mut bytes = decoder("qwen2", 9);
    bytes.text("tokenizer.ggml.model", "gpt2");
    bytes.text("tokenizer.ggml.pre", "qwen2");
    let kinds: Vec<u8> =
        [3i32, 1, 1, 1, 1, 1, 1, 4].iter().flat_map(|kind| kind.to_le_bytes()).collect();
    bytes.list("tokenizer.ggml.token_type", 5, words.len(), &kinds);
    bytes.texts("tokenizer.ggml.tokens", &words);
    bytes.texts("tokenizer.ggml.merges", &owned(&["a b", "\u{120} a"]));
    bytes.whole("tokenizer.ggml.eos_token_id", 0);
    bytes.text("tokenizer.chat_template", "{{ messages }}");
    bytes.value("qwen2.rope.freq_base", 6, &1e6f32.to_le_bytes());

    let pieces = owned(&["<unk>", "<s>", "</s>"]).into_iter();
    let pieces = pieces.chain((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let pieces: Vec<String> = pieces.chain(owned(&["a", "\u{2581}", "\u{2581}a"])).collect();
    let mut spoken = decoder("llama", pieces.len() as u64);
    spoken.text("tokenizer.ggml.model", "llama");
    let scores: Vec<u8> = (0..pieces.len()).flat_map(|at| (-(at as f32)).to_le_bytes()).collect();
    spoken.list("tokenizer.ggml.scores", 6, pieces.len(), &scores);
    spoken.texts("tokenizer.ggml.tokens", &pieces);
    spoken.text("llama.rope.scaling.type", "linear");
    spoken.value("llama.rope.scaling.factor", 6, &2f32.to_le_bytes());
    vec![("bytes", bytes.bytes()), ("pieces", spoken.bytes())]
}
