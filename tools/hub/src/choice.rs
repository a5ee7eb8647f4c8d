//! Which files of a repository a model folder is made from.
//!
//! - In: a listing. Out: [`Choice`], or why none of it can be read.
//! - Never here: the network, the disk.

use crate::error::{HubError, shown};
use crate::listing::Listing;
use crate::name::{Name, is_gguf};

/// The index of a checkpoint in shards.
pub const INDEX: &str = "model.safetensors.index.json";
/// A checkpoint in one file.
const WHOLE: &str = "model.safetensors";
/// What an export reads beside the weights, where it is there.
const SMALL: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];
/// GGUF files that a refusal names one by one.
const NAMED_MAX: usize = 40;

/// What is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Safetensors and what is beside them; the shards stand in the index, if `index`.
    Safetensors {
        /// Configuration and tokenizer.
        small: Vec<String>,
        /// Whether weights are in shards.
        index: bool,
    },
    /// One GGUF file.
    Gguf(String),
}

impl Choice {
    /// What `name` needs of what there is.
    /// # Errors
    /// [`HubError::Unfit`], [`HubError::Several`].
    pub fn of(name: &Name, listing: &Listing) -> Result<Self, HubError> {
        let has = |file: &str| listing.files.contains_key(file);
        let unfit = |what: String| HubError::Unfit { repo: name.repo.clone(), what };
        let ggufs: Vec<&str> =
            listing.files.keys().map(String::as_str).filter(|file| is_gguf(file)).collect();
        if let Some(file) = &name.file {
            return match has(file) {
                true => Ok(Self::Gguf(file.clone())),
                false => Err(unfit(format!(
                    "it has no file {file} at {}, but {}",
                    name.revision,
                    if ggufs.is_empty() {
                        "no GGUF at all".to_owned()
                    } else {
                        named(&ggufs, listing)
                    }
                ))),
            };
        }
        if has(WHOLE) || has(INDEX) {
            for (file, way) in [
                ("config.json", "expected a model of transformers"),
                (
                    "tokenizer.json",
                    "a model folder needs it; in Python: transformers.AutoTokenizer.from_pretrained(NAME).save_pretrained(HF_DIR), and `sapwood export HF_DIR MODEL_DIR`",
                ),
            ] {
                if !has(file) {
                    return Err(unfit(format!("it has no {file}: {way}")));
                }
            }
            let more = listing.files.keys().filter(|file| is_template(file)).cloned();
            let small = SMALL.into_iter().filter(|file| has(file)).map(str::to_owned).chain(more);
            return Ok(Self::Safetensors { small: small.collect(), index: !has(WHOLE) });
        }
        match ggufs[..] {
            [one] => Ok(Self::Gguf(one.to_owned())),
            [] => Err(unfit(lacks(&has))),
            _ => Err(HubError::Several { repo: name.repo.clone(), files: named(&ggufs, listing) }),
        }
    }
}

/// Why a repository without weights that are read here is none.
fn lacks(has: &impl Fn(&str) -> bool) -> String {
    let way = match () {
        () if has("adapter_config.json") => {
            "it is an adapter; export its base, then name the adapter with --adapter-path"
        }
        () if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") => {
            "it has pickles alone, which can run code and are not read; in Python: transformers.AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(HF_DIR), the tokenizer likewise, and `sapwood export HF_DIR MODEL_DIR`"
        }
        () => "expected model.safetensors, its shards, or a .gguf",
    };
    format!("it holds no weights that are read here: {way}")
}

/// A chat template that has a file of its own.
fn is_template(file: &str) -> bool {
    ["chat_template.jinja", "chat_template.json"].contains(&file)
}

/// Some files with their sizes.
fn named(files: &[&str], listing: &Listing) -> String {
    let one = |file: &&str| {
        let size = listing.files.get(*file).and_then(|entry| entry.size);
        let size = size.map_or(String::new(), |size| format!(" ({:.1} MB)", size as f64 / 1e6));
        format!("{}{size}", shown(file))
    };
    let some: Vec<String> = files.iter().take(NAMED_MAX).map(one).collect();
    let more = match files.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    some.join(", ") + &more
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::listing::Entry;

    fn listing(files: &[&str]) -> Listing {
        let entry = |file: &&str| ((*file).to_owned(), Entry { size: Some(3_000_000), hash: None });
        Listing { commit: "0".repeat(40), files: files.iter().map(entry).collect() }
    }

    fn choice(name: &str, files: &[&str]) -> Result<Choice, String> {
        Choice::of(&Name::parse(name).unwrap(), &listing(files)).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_is_needed_is_chosen() {
        let all = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "chat_template.jinja",
            "pytorch_model.bin",
            "flax_model.msgpack",
            "onnx/model.onnx",
            "x.gguf",
            "model.safetensors",
            "consolidated.safetensors",
        ];
        let small =
            ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
        let small: Vec<String> = small.map(str::to_owned).into();
        let chosen = choice("a/b", &all).unwrap();
        assert_eq!(chosen, Choice::Safetensors { small: small.clone(), index: false });
        let sharded: Vec<&str> =
            all.iter().map(|file| if *file == WHOLE { INDEX } else { file }).collect();
        assert_eq!(choice("a/b", &sharded).unwrap(), Choice::Safetensors { small, index: true });
        assert_eq!(choice("a/b/x.gguf", &all).unwrap(), Choice::Gguf("x.gguf".into()));
        assert_eq!(choice("a/b", &["in/x.gguf"]).unwrap(), Choice::Gguf("in/x.gguf".into()));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (name, files, said) in [
            ("a/b", &["q4.gguf", "q8.gguf"][..], "q4.gguf (3.0 MB), q8.gguf (3.0 MB)"),
            ("a/b/q5.gguf", &["q4.gguf"], "no file q5.gguf at main, but q4.gguf"),
            ("a/b", &["model.safetensors", "config.json"], "no tokenizer.json"),
            ("a/b", &["model.safetensors", "tokenizer.json"], "no config.json"),
            ("a/b", &["config.json", "pytorch_model.bin"], "pickles alone"),
            ("a/b", &["adapter_config.json", "adapter_model.safetensors"], "it is an adapter"),
            ("a/b", &[], "expected model.safetensors"),
        ] {
            let error = choice(name, files).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
