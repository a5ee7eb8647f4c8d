//! What tokenising promises, on two tokenizers of opposite habits.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::fixture::{VOCAB, byte_level, folder, llama};
use super::*;
use crate::block::Block;
use crate::intake::{Choice, Message};

fn with(tokenizer: &Value, eos: &str) -> Tokeniser {
    let template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}\
        {% if add_generation_prompt %}[assistant]{% endif %}";
    Tokeniser::open(folder(tokenizer, eos, Some(template)).path(), VOCAB).unwrap()
}

fn both() -> [Tokeniser; 2] {
    [with(&llama(), "</s>"), with(&byte_level(), "<|end|>")]
}

fn text(repeat: usize) -> String {
    "the cat hét the hat.\n\n\tthen  more 日本 🙂\n".repeat(repeat)
}

fn completion(prompt: &str, completion: &str) -> Example {
    Example::Completion { prompt: prompt.into(), completion: completion.into() }
}

fn learned(tokeniser: &Tokeniser, block: &Block) -> String {
    let ids: Vec<u32> = block
        .tokens
        .iter()
        .zip(&block.learn)
        .filter_map(|(id, learn)| learn.then_some(*id))
        .collect();
    tokeniser.tokenizer.decode(&ids, false).unwrap()
}

/// Goal: the tokenizer of a GGUF file gives llama.cpp's ids and begins a text as llama.cpp does, for every
/// name of a split and both kinds; and what it encodes it decodes.
/// Oracle: `tools/golden/gguf_files.py` (llama-cpp-python 0.3.36), over odd text.
#[test]
fn the_tokenizer_of_a_gguf_file_gives_the_ids_of_llama_cpp() {
    use crate::base::gguf::{read_header, tokenizer_files, value};
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/tokens");
    let facts = json(&place.join("tokens.json")).unwrap().unwrap();
    let texts: Vec<&str> =
        facts["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let mut differ = Vec::new();
    for kind in ["bytes", "pieces"] {
        let path = place.join(kind).with_extension("gguf");
        for (name, expected) in facts[kind].as_object().unwrap() {
            let mut header = read_header(&path).unwrap();
            match (kind, name.as_str()) {
                ("bytes", "") => drop(header.values.remove("tokenizer.ggml.pre")),
                ("bytes", name) => {
                    let name = value::Value::from_text(name);
                    header.values.insert("tokenizer.ggml.pre".into(), name);
                }
                (_, "") => {}
                _ => {
                    for key in ["add_space_prefix", "add_bos_token"] {
                        let no = value::Value::from_flag(false);
                        header.values.insert(format!("tokenizer.ggml.{key}"), no);
                    }
                }
            }
            let folder = tempfile::tempdir().unwrap();
            for (file, bytes) in tokenizer_files(&header, &path).unwrap() {
                fs::write(folder.path().join(file), bytes).unwrap();
            }
            let tokeniser = Tokeniser::open(folder.path(), 2048).unwrap();
            assert_eq!(serde_json::json!(tokeniser.prefix), expected["begin"], "{kind} {name:?}");
            assert_eq!(tokeniser.chat.is_some(), kind == "bytes");
            let ids = facts["ids"][expected["ids"].as_u64().unwrap() as usize].as_array().unwrap();
            for (text, ids) in texts.iter().zip(ids) {
                let got = tokeniser.code(text).unwrap().ids;
                if serde_json::json!(got) != *ids {
                    differ.push(format!("{kind} {name:?}, {text:?}: {got:?}, expected {ids}"));
                }
                let special = ["<", "[EMPTY"].iter().any(|mark| text.contains(mark));
                let back = tokeniser.tokenizer.decode(&got, false).unwrap();
                // llama's kind writes its own sign for a blank.
                let lost = kind == "pieces" && text.contains('\u{2581}');
                if !special && !lost && back != **text {
                    differ.push(format!("{kind} {name:?}, {text:?} comes back as {back:?}"));
                }
            }
        }
    }
    assert!(differ.is_empty(), "{}: {:#?}", differ.len(), &differ[..differ.len().min(20)]);
}

#[test]
fn the_labels_of_a_document_stand_for_exactly_its_bytes() {
    for tokeniser in both() {
        for tokens_max in [2, 3, 7, 64, 100_000] {
            let document = text(20);
            let made = tokeniser.blocks(&[Example::Text(document.clone())], tokens_max, false, 3);
            let Blocks { blocks, report } = made.unwrap();
            let sum: u64 = blocks.iter().map(|block| u64::from(block.bytes)).sum();
            // Without BOS nothing predicts the first token, here the letter t.
            let unpredicted = u64::from(tokeniser.prefix.is_empty());
            assert_eq!((sum, report.bytes), (document.len() as u64 - unpredicted, sum));
            assert_eq!(report.tokens_dropped, 0);
            for block in &blocks {
                assert!(
                    block.tokens.len() <= tokens_max && block.tokens.len() == block.learn.len()
                );
                assert_eq!((block.learn[0], block.domain), (false, 3));
            }
        }
    }
}

#[test]
fn the_labels_of_all_blocks_are_the_tokens_of_the_document_in_order() {
    for tokeniser in both() {
        let document = text(20);
        let made = tokeniser.blocks(&[Example::Text(document.clone())], 50, false, 0).unwrap();
        let labels: Vec<u32> = made
            .blocks
            .iter()
            .flat_map(|block| block.tokens.iter().zip(&block.learn))
            .filter_map(|(token, learn)| learn.then_some(*token))
            .collect();
        let encoding = tokeniser.tokenizer.encode(document, false).unwrap();
        let skipped = usize::from(tokeniser.prefix.is_empty());
        assert_eq!(labels, encoding.get_ids()[skipped..]);
    }
}

#[test]
fn blocks_are_nearly_full_and_begin_after_a_line_where_they_can() {
    let [tokeniser, _] = both();
    let document = "the cat.\n".repeat(200);
    let made = tokeniser.blocks(&[Example::Text(document)], 100, false, 0).unwrap();
    let (last, full) = made.blocks.split_last().unwrap();
    assert!(full.iter().all(|block| (88..=100).contains(&block.tokens.len())));
    assert!(full.iter().all(|block| block.tokens[0] == 1));
    assert!(full.iter().chain([last]).all(|block| learned(&tokeniser, block).ends_with(".\n")));
}

#[test]
fn a_long_document_is_tokenised_in_pieces_without_losing_a_byte() {
    for tokeniser in both() {
        for document in [text(4_000), "é".repeat(SEGMENT_BYTES_MAX)] {
            let coded = tokeniser.code(&document).unwrap();
            assert_eq!(coded.ends.last(), Some(&document.len()));
            assert!(coded.ends.is_sorted());
        }
    }
    let [_, tokeniser] = both();
    let whole = tokeniser.tokenizer.encode(text(4_000), false).unwrap();
    assert_eq!(tokeniser.code(&text(4_000)).unwrap().ids, whole.get_ids());
}

#[test]
fn a_masked_prompt_is_not_learned_and_the_end_is() {
    for (tokeniser, end) in both().into_iter().zip(["</s>", "<|end|>"]) {
        let example = [completion("the cat ", "the hat")];
        let masked = tokeniser.blocks(&example, 64, true, 0).unwrap();
        assert_eq!(learned(&tokeniser, &masked.blocks[0]).trim(), format!("the hat{end}"));
        assert_eq!(masked.blocks[0].tokens.last().copied(), tokeniser.eos);
        let whole = tokeniser.blocks(&example, 64, false, 0).unwrap();
        assert!(whole.report.labels > masked.report.labels);
        assert!(whole.report.bytes > masked.report.bytes);
    }
}

#[test]
fn only_the_turns_of_the_assistant_are_learned_under_a_mask() {
    let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let talk =
        [turn("user", "ab"), turn("assistant", "cd"), turn("user", "e"), turn("assistant", "fg")];
    let talk = [Example::Messages(Talk::from(&talk[..]))];
    let [tokeniser, _] = both();
    let masked = tokeniser.blocks(&talk, 100, true, 0).unwrap();
    assert_eq!(learned(&tokeniser, &masked.blocks[0]), "cd</s>fg</s>");
    assert_eq!(masked.report.bytes, 12);
    let whole = tokeniser.blocks(&talk, 100, false, 0).unwrap();
    // This tokenizer puts a blank before the text after a special token.
    let all = learned(&tokeniser, &whole.blocks[0]).replace(' ', "");
    assert_eq!(all, "[user]ab</s>[assistant]cd</s>[user]e</s>[assistant]fg</s>");
    let prompt = tokeniser.encode_chat(&Talk::from(&[turn("user", "ab")][..]), "").unwrap();
    assert_eq!(tokeniser.decode(&prompt).unwrap(), "[user]ab [assistant]");
}

#[test]
fn what_is_too_long_is_cut_and_counted() {
    let [tokeniser, _] = both();
    let made = tokeniser.blocks(&[completion("a", "bcdefgh"), completion("a", "b")], 6, true, 0);
    let Blocks { blocks, report } = made.unwrap();
    assert_eq!((blocks.len(), blocks[0].tokens.len()), (2, 6));
    // BOS, a blank, eight letters and the end are eleven tokens.
    assert_eq!((report.examples_cut, report.tokens_dropped), (1, 5));
    assert!(report.warnings().contains(&Warning::Cut { examples: 1, tokens: 5 }));
}

#[test]
fn data_without_a_label_is_refused_and_little_of_it_is_a_warning() {
    let [tokeniser, _] = both();
    let refusal = |example: &[Example]| match tokeniser.blocks(example, 6, true, 0) {
        Err(error) => error.to_string(),
        Ok(_) => String::new(),
    };
    let masked = refusal(&[completion("abcdefgh", "i")]);
    assert!(
        masked.contains("no token is trainable") && masked.contains("--mask-prompt"),
        "{masked}"
    );
    assert!(refusal(&[]).contains("the data is empty"));
    let little = [completion(&"a".repeat(60), "b"), completion("abcdefgh", "")];
    let report = tokeniser.blocks(&little, 64, true, 0).unwrap().report;
    let few = Warning::FewLabels { labels: 2, tokens: 64 };
    assert_eq!(report.warnings(), vec![few, Warning::Unlabelled { examples: 1 }]);
}

#[test]
fn each_choice_is_a_block_and_a_long_prompt_loses_its_start() {
    for tokeniser in both() {
        let prompt = "x".repeat(40);
        let choices = vec!["ab".to_owned(), "abc".to_owned()];
        let choice = Choice { prompt, choices, answer: 0 };
        let blocks = tokeniser.choices(&choice, 10, 0).unwrap();
        let said: Vec<_> = blocks.iter().map(|block| learned(&tokeniser, block)).collect();
        assert_eq!(said, ["ab", "abc"]);
        assert!(blocks.iter().all(|block| block.tokens.len() == 10));
        assert_eq!((blocks[0].bytes, blocks[1].bytes), (2, 3));
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused_with_both_sizes() {
    let folder = folder(&llama(), "</s>", None);
    let refusal = Tokeniser::open(folder.path(), 289).err().map(|error| error.to_string());
    assert_eq!(
        refusal.as_deref(),
        Some("tokenizer does not match the model: expected ids below 289, got 289")
    );
    let fits = Tokeniser::open(folder.path(), 290).unwrap();
    assert!(fits.warnings().is_empty());
    let padded = Tokeniser::open(folder.path(), 300).unwrap();
    assert_eq!(padded.warnings(), [Warning::Vocabulary { highest: 289, vocab: 300 }]);
}

#[test]
fn broken_folders_are_refused_by_file_and_messages_need_a_template() {
    let model = folder(&llama(), "</s>", None);
    let turn = Message { role: "user".into(), content: "a".into() };
    let talk = [Example::Messages(Talk::from(&[turn][..]))];
    let plain = Tokeniser::open(model.path(), VOCAB).unwrap();
    assert!(matches!(plain.blocks(&talk, 8, false, 0), Err(TokeniseError::NoTemplate)));
    assert!(matches!(plain.blocks(&talk, 1, false, 0), Err(TokeniseError::Room { .. })));
    let refusal = || Tokeniser::open(model.path(), VOCAB).err().unwrap().to_string();
    fs::write(model.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(refusal().contains("tokenizer_config.json is not JSON"));
    fs::write(model.path().join("tokenizer.json"), "{\"model\":").unwrap();
    assert!(refusal().contains("tokenizer.json is not a tokenizer"));
    fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    assert!(refusal().contains("cannot read") && refusal().contains("tokenizer.json"));
}

#[test]
fn a_template_in_a_file_of_its_own_wins_and_the_end_may_come_from_the_model() {
    let model = folder(&byte_level(), "<|nowhere|>", Some("old"));
    fs::write(model.path().join("chat_template.jinja"), "new").unwrap();
    fs::write(model.path().join("generation_config.json"), r#"{"eos_token_id": [256, 1]}"#)
        .unwrap();
    let tokeniser = Tokeniser::open(model.path(), VOCAB).unwrap();
    assert_eq!(
        tokeniser.decode(&tokeniser.encode_chat(&Talk::default(), "").unwrap()).unwrap(),
        "new"
    );
    assert_eq!(tokeniser.eos(), Some(256));
}

#[test]
fn a_prompt_has_bos_as_the_tokenizer_puts_it() {
    let [llama, byte_level] = both();
    assert_eq!(llama.encode("the").unwrap(), [1, 288]);
    assert_eq!(llama.encode("").unwrap(), [1]);
    assert_eq!(byte_level.encode("").unwrap(), [0; 0]);
    // The file asks for truncation at 8 tokens, which would lose text.
    assert!(llama.encode(&"a".repeat(50)).unwrap().len() > 50);
}

#[test]
fn a_stream_gives_whole_characters_and_in_the_end_the_same_text() {
    for tokeniser in both() {
        let prompt = tokeniser.encode("the").unwrap();
        let whole = tokeniser.encode("the 日本 🙂 hét the").unwrap();
        let mut stream = tokeniser.stream(&prompt).unwrap();
        let mut said = String::new();
        for &id in &whole[prompt.len()..] {
            let part = stream.push(id).unwrap();
            assert!(part.as_deref().is_none_or(|part| !part.contains('\u{fffd}')));
            said.extend(part);
        }
        assert_eq!(said, " 日本 🙂 hét the");
        assert_eq!(stream.finish().unwrap(), None);
        let mut cut = tokeniser.stream(&prompt).unwrap();
        let ids = tokeniser.encode("the 日").unwrap();
        for &id in &ids[prompt.len()..ids.len() - 1] {
            cut.push(id).unwrap();
        }
        assert!(cut.finish().unwrap().is_some_and(|rest| rest.contains('\u{fffd}')));
    }
}

/// Goal: chats and strings become the ids of transformers. Oracle: `tools/golden`, `tests/golden/tokenizer`.
#[test]
fn ids_and_chats_are_those_of_transformers() {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer"));
    let golden = json(&model.join("expected.json")).unwrap().unwrap();
    let tokeniser = Tokeniser::open(model, 300).unwrap();
    let text = |of: &Value, key: &str| of[key].as_str().unwrap().to_owned();
    let ids = |of: &Value| {
        of["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect::<Vec<_>>()
    };
    let strings = golden["strings"].as_array().unwrap();
    for string in strings {
        assert_eq!(tokeniser.encode(&text(string, "text")).unwrap(), ids(string), "{string}");
    }
    let conversations = golden["conversations"].as_array().unwrap();
    for conversation in conversations {
        let message = |message: &Value| Message {
            role: text(message, "role"),
            content: text(message, "content"),
        };
        let list = conversation["messages"].as_array().unwrap();
        let messages: Vec<Message> = list.iter().map(message).collect();
        let prompt = conversation["add_generation_prompt"].as_bool().unwrap();
        let chat = tokeniser.chat.as_ref().unwrap();
        let rendered = chat.render(&Talk::from(&messages[..]), prompt).unwrap();
        assert_eq!(rendered, text(conversation, "rendered"));
        assert_eq!(tokeniser.code(&rendered).unwrap().ids, ids(conversation), "{conversation}");
    }
    assert!(strings.len() > 3 && conversations.len() > 3);
    assert_eq!(u64::from(tokeniser.eos().unwrap()), golden["eos"].as_u64().unwrap());
}

/// Goal: tokens that only `special_tokens_map.json` names are known, and those of `tokenizer_config.json` win.
#[test]
fn special_tokens_may_stand_in_a_map_of_their_own() {
    let model = folder(&byte_level(), "", Some("{{ bos_token }}{{ eos_token }}"));
    let map = r#"{"eos_token": {"content": "<|end|>", "lstrip": false}, "bos_token": "B"}"#;
    fs::write(model.path().join("special_tokens_map.json"), map).unwrap();
    let config = model.path().join("tokenizer_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let opened = || Tokeniser::open(model.path(), VOCAB).unwrap();
    fs::write(&config, text.replace("\"eos_token\":\"\"", "\"eos_token\":null")).unwrap();
    let tokeniser = opened();
    let said = |tokeniser: &Tokeniser| tokeniser.encode_chat(&Talk::default(), "").unwrap();
    assert_eq!(said(&tokeniser), tokeniser.encode("B<|end|>").unwrap());
    assert_eq!(tokeniser.eos(), tokeniser.encode("<|end|>").unwrap().first().copied());
    fs::write(&config, text.replace("\"eos_token\":\"\"", "\"eos_token\":\"a\"")).unwrap();
    let tokeniser = opened();
    assert_eq!(said(&tokeniser), tokeniser.encode("Ba").unwrap());
    fs::write(model.path().join("special_tokens_map.json"), "{").unwrap();
    let refusal = Tokeniser::open(model.path(), VOCAB).err().unwrap().to_string();
    assert!(refusal.contains("special_tokens_map.json is not JSON"), "{refusal}");
}

/// Goal: a token's bytes are its part of the text. Oracle: the text itself, cut at any byte.
#[test]
fn the_spellings_of_a_text_are_its_bytes() {
    for tokeniser in both() {
        let spellings = tokeniser.spellings().unwrap();
        let ids = tokeniser.encode(&text(3)).unwrap();
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| match &spellings[id as usize] {
                Spelling::Text(bytes) => bytes.clone(),
                Spelling::Special(_) | Spelling::None => Vec::new(),
            })
            .collect();
        let got = String::from_utf8(bytes).unwrap();
        assert_eq!(got.trim_start(), text(3));
        assert!(spellings.iter().any(|one| matches!(one, Spelling::Special(_))));
    }
}
