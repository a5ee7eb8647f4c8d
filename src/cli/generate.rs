//! `sapwood generate`: text after a prompt, as it is written.

use super::args::Generate;
use super::chosen;
use super::console::Console;
use super::host;
use sapwood::base::Base;
use sapwood::generate::{self, End, Generator, Sampling};
use sapwood::head::Backend;
use sapwood::intake::Message;
use sapwood::tokenise::Tokeniser;
use serde_json::json;
use std::io::{self, Write};

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
            tokeniser.encode_chat(&turns)?
        }
        false => tokeniser.encode(&args.prompt)?,
    };
    let place = Backend::open(args.choice.device)?;
    place.notice().map_or(Ok(()), |notice| console.warn(notice))?;
    let (trunk, head) = generate::load(&base, &place)?;
    let generator = Generator::new(&trunk, None, &head);
    let sampling = Sampling {
        temperature: args.temp,
        top_p: args.top_p,
        seed: args.seed,
        ..Sampling::default()
    };
    let mut text = generator.start(&prompt, args.max_tokens, adapter.as_ref(), sampling)?;
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
    if text.end() == Some(End::Length) && count < args.max_tokens {
        let context = generator.context();
        console.warn(&format!("it ends after {count} tokens: the model's context is {context}"))?;
    }
    let value = json!({ "event": "text", "prompt": args.prompt, "text": written, "tokens": count });
    Ok(console.result(&value, "")?)
}
