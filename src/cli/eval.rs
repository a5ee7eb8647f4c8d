//! `sapwood eval`: bits per byte and perplexity of text, accuracy over choices.

use super::args::Eval;
use super::chosen;
use super::console::Console;
use super::host;
use sapwood::learner::{Engines, HeldOut, accuracy};
use serde_json::json;

/// Scores the base or an adapter on what the user named.
pub(crate) fn run(args: &Eval, console: &Console) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.data.is_some() || args.choices.is_some(),
        "nothing to score: expected --data, --choices or both"
    );
    let model = chosen::model(args.choice.model.as_ref())?;
    let settings = sapwood::settings::Settings {
        mask_prompt: args.mask_prompt,
        head_weights: args.head_weights,
        ..chosen::settings(&args.choice, args.max_seq_length)?
    };
    host::bind_threads(settings.threads, console)?;
    let engines = Engines::load(model, &settings)?;
    engines.backend.notice().map_or(Ok(()), |notice| console.warn(notice))?;
    let tokeniser = chosen::tokeniser(model, &engines)?;
    let adapter = chosen::adapter(&args.choice, &engines.base, console)?;
    if let Some(path) = &args.data {
        let data = chosen::whole(path)?;
        chosen::tell_skipped(&data, console)?;
        let examples = chosen::to_score(data);
        let blocks =
            chosen::blocks(&tokeniser, &examples, &settings, 0, |text| console.warn(text))?;
        let held_out = HeldOut::new(&engines.trunk, &blocks, 8, &mut || Ok(()))?;
        let score = held_out.score(&engines.head, adapter.as_ref(), &mut || Ok(()))?;
        let (bits, perplexity) = (score.bits_per_byte(), score.perplexity());
        let value = json!({
            "event": "text",
            "data": chosen::name(path),
            "bits_per_byte": bits,
            "perplexity": perplexity,
            "tokens": score.tokens,
            "bytes": score.bytes,
        });
        let text = format!(
            "{}: {bits:.4} bits per byte, perplexity {perplexity:.2} ({} tokens, {} bytes)",
            chosen::name(path),
            score.tokens,
            score.bytes
        );
        console.result(&value, &text)?;
    }
    if let Some(path) = &args.choices {
        let data = chosen::data(path)?;
        let examples = [data.train, data.valid, data.test].concat();
        let score = accuracy(&engines, &tokeniser, &examples, &settings, adapter.as_ref())?;
        let value = json!({
            "event": "choices",
            "data": chosen::name(path),
            "accuracy": score.accuracy(),
            "right": score.right,
            "of": score.of,
        });
        let text = format!(
            "{}: accuracy {:.4} ({} of {} right)",
            chosen::name(path),
            score.accuracy(),
            score.right,
            score.of
        );
        console.result(&value, &text)?;
    }
    Ok(())
}
