//! `sapwood generate`: text after a prompt, as it is written.

use super::args::Generate;
use super::chosen;
use super::console::Console;
use super::host;
use anyhow::Context;
use sapwood::base::Base;
use sapwood::constrain::{Constrainer, Schema};
use sapwood::generate::{self, End, Generator, Sampling};
use sapwood::head::{Backend, Keep};
use sapwood::intake::{Message, Talk};
use sapwood::tokenise::Tokeniser;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};

/// Bytes of a schema's file: far more than the names and values that a schema may have.
const SCHEMA_BYTES_MAX: u64 = 1 << 20;

/// Writes text to standard output, token by token.
pub(crate) fn run(args: &Generate, console: &Console) -> anyhow::Result<()> {
    let model = chosen::model(args.choice.model.as_ref())?;
    host::bind_threads(args.choice.threads, console)?;
    let base = Base::open(model)?;
    let tokeniser = Tokeniser::open(model, base.config().vocab)?;
    let adapter = chosen::adapter(&args.choice, &base, console)?;
    let prompt = match args.chat {
        true => {
            let turn = |role: &str, content: &String| Message {
                role: role.to_owned(),
                content: content.clone(),
            };
            let system = args.system.iter().map(|system| turn("system", system));
            let turns: Vec<Message> = system.chain([turn("user", &args.prompt)]).collect();
            tokeniser.encode_chat(&Talk::from(&turns[..]), "")?
        }
        false => tokeniser.encode(&args.prompt)?,
    };
    let constraint = match schema(args)? {
        None => None,
        Some(schema) => {
            let config = base.config();
            let made = Constrainer::new(&tokeniser.spellings()?, config.vocab, &config.eos)?;
            Some(made.schema(&schema)?)
        }
    };
    let is_held = constraint.is_some();
    let place = Backend::open(args.choice.device)?;
    place.notice().map_or(Ok(()), |notice| console.warn(notice))?;
    let keep = Keep { weights: args.head_weights, ..Keep::default() };
    let (trunk, head) = generate::load(&base, &place, keep)?;
    let generator = Generator::new(&trunk, None, &head);
    let sampling = Sampling {
        temperature: args.temp,
        top_p: args.top_p,
        seed: args.seed,
        ..Sampling::default()
    };
    let mut text = generator.start(&prompt, args.max_tokens, adapter.as_ref(), sampling)?;
    if let Some(constraint) = constraint {
        text = text.constrained(constraint);
    }
    let (mut stream, mut written, mut count) = (tokeniser.stream(&prompt)?, String::new(), 0);
    while let Some(id) = text.next_token()? {
        count += 1;
        let Some(piece) = stream.push(id)? else { continue };
        if !console.json() {
            write!(io::stdout(), "{piece}")?;
            io::stdout().flush()?;
        }
        written += &piece;
    }
    let is_cut = text.end() == Some(End::Length);
    let context = generator.context();
    if is_cut && count < args.max_tokens && !is_held {
        console.warn(&format!("it ends after {count} tokens: the model's context is {context}"))?;
    }
    let finish = if is_cut { "length" } else { "stop" };
    let value = json!({
        "event": "text", "prompt": args.prompt, "text": written, "tokens": count, "finish": finish,
    });
    console.result(&value, "")?;
    anyhow::ensure!(
        !(is_cut && is_held),
        "the text is the beginning of one that fits: it was cut after {count} tokens by {}",
        match count < args.max_tokens {
            true => format!("the model's context of {context}"),
            false => "--max-tokens, expected more of them".to_owned(),
        }
    );
    Ok(())
}

/// What the text is to fit; none for any text.
fn schema(args: &Generate) -> anyhow::Result<Option<Schema>> {
    let Some(given) = &args.json_schema else {
        return Ok(args.json_object.then(Schema::object));
    };
    let of = || format!("--json-schema {given}");
    // A file's name begins otherwise.
    let value: Value = match given.trim_start().starts_with('{') {
        true => serde_json::from_str(given).context("--json-schema is no JSON")?,
        false => {
            let mut text = String::new();
            let file = File::open(given).with_context(of)?;
            file.take(SCHEMA_BYTES_MAX + 1).read_to_string(&mut text).with_context(of)?;
            anyhow::ensure!(
                text.len() as u64 <= SCHEMA_BYTES_MAX,
                "--json-schema {given}: expected a file of at most {SCHEMA_BYTES_MAX} bytes"
            );
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", of()))?
        }
    };
    Ok(Some(Schema::read(&value).context("--json-schema")?))
}
