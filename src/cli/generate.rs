//! `sapwood generate`: text after a prompt, as it is written.

use super::args::Generate;
use super::chosen;
use super::console::Console;
use sapwood::base::Base;
use sapwood::generate::{Generator, Sampling};
use sapwood::head::Place;
use sapwood::intake::Message;
use sapwood::tokenise::Tokeniser;
use serde_json::json;
use std::io::{self, Write};

/// Writes text to standard output, token by token.
pub(crate) fn run(args: &Generate, console: &Console) -> anyhow::Result<()> {
    let model = chosen::model(args.choice.model.as_ref())?;
    let base = Base::open(model)?;
    let tokeniser = Tokeniser::open(model, base.config().vocab)?;
    let adapter = chosen::adapter(&args.choice, &base)?;
    let prompt = match args.chat {
        true => tokeniser
            .encode_chat(&[Message { role: "user".into(), content: args.prompt.clone() }])?,
        false => tokeniser.encode(&args.prompt)?,
    };
    let context = base.config().context;
    anyhow::ensure!(
        prompt.len() < context,
        "the prompt has {} tokens, the model's context is {context}",
        prompt.len()
    );
    let tokens_max = context.min(prompt.len().saturating_add(args.max_tokens));
    let place = Place::open(args.choice.device)?;
    place.notice().map_or(Ok(()), |notice| console.warn(notice))?;
    let generator = Generator::load(&base, &place, tokens_max)?;
    let sampling = Sampling { temperature: args.temp, top_p: args.top_p, seed: args.seed };
    let mut text = generator.start(&prompt, adapter.as_ref(), sampling)?;
    let (mut stream, mut written, mut count) = (tokeniser.stream(&prompt)?, String::new(), 0);
    while count < tokens_max - prompt.len() {
        let Some(id) = text.next_token()? else { break };
        count += 1;
        let Some(piece) = stream.push(id)? else { continue };
        if !console.json() {
            write!(io::stdout(), "{piece}")?;
            io::stdout().flush()?;
        }
        written += &piece;
    }
    let value = json!({ "event": "text", "prompt": args.prompt, "text": written, "tokens": count });
    Ok(console.result(&value, "")?)
}
