//! `sapwood adapter inspect|diff|install|confirm|revert`: what an adapter changes, how two differ, and a
//! global one under what a state has learned.

use super::args::Adapter as Action;
use super::chosen;
use super::console::Console;
use super::install;
use anyhow::Context;
use sapwood::adapter::peft::{self, Meta};
use sapwood::adapter::{Adapter, compare};
use sapwood::base::{Config, origin, read_config};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Looks at one adapter or at two, or changes what a state stands on.
pub(crate) fn run(action: &Action, console: &mut Console) -> anyhow::Result<()> {
    match action {
        Action::Inspect { adapter, model } => inspect(adapter, model.as_deref(), console),
        Action::Diff { first, second, model } => diff(first, second, model.as_deref(), console),
        Action::Install(args) => install::run(args, console),
        Action::Confirm { state } => install::confirm(state, console),
        Action::Revert { state } => install::revert(state, console),
    }
}

/// What other programs call the base of an adapter: the repository that its folder was made from, else the
/// folder itself.
pub(super) fn name_elsewhere(adapter: &Path, model: Option<&Path>) -> Option<String> {
    let name = base_name(adapter, model)?;
    Some(origin::repo(Path::new(&name)).unwrap_or(name))
}

/// What an adapter calls its base: `--model`, else what its own configuration says.
fn base_name(adapter: &Path, model: Option<&Path>) -> Option<String> {
    if let Some(model) = model {
        return Some(model.to_string_lossy().into_owned());
    }
    let value: Value =
        serde_json::from_slice(&fs::read(adapter.join(peft::CONFIG_FILE)).ok()?).ok()?;
    let named = value.get("base_model_name_or_path").or(value.get("model"))?;
    named.as_str().map(str::to_owned)
}

/// The shape of the base: of `--model`, else of the folder that the adapter itself names.
pub(super) fn config(adapter: &Path, model: Option<&Path>) -> anyhow::Result<Config> {
    if let Some(model) = model {
        return Ok(read_config(model)?);
    }
    let path = adapter.join(peft::CONFIG_FILE);
    fs::metadata(&path)
        .with_context(|| format!("cannot read {} of the adapter", path.display()))?;
    let named = base_name(adapter, None)
        .map(PathBuf::from)
        .filter(|folder| folder.join("config.json").is_file());
    let named =
        named.context("the adapter names no model folder that is here; expected --model")?;
    Ok(read_config(&named)?)
}

fn load(folder: &Path, config: &Config) -> anyhow::Result<(Adapter, Option<Meta>)> {
    chosen::adapter_at(folder, config, None)
}

fn inspect(folder: &Path, model: Option<&Path>, console: &Console) -> anyhow::Result<()> {
    let (adapter, meta) = load(folder, &config(folder, model)?)?;
    let summary = compare::inspect(&adapter)?;
    let global = meta.and_then(|meta| meta.global);
    let modules: Vec<Value> = summary
        .modules
        .iter()
        .map(|module| {
            json!({
                "layer": module.layer,
                "target": module.target.name(),
                "rank": module.rank,
                "scale": module.scale,
                "norm": module.norm,
            })
        })
        .collect();
    let value = json!({
        "event": "adapter",
        "parameters": summary.parameters,
        "norm": summary.norm,
        "generation": meta.map(|meta| meta.generation),
        "steps": meta.map(|meta| meta.steps),
        "global": global.map(|global| json!({
            "ranks": global.ranks,
            "artifact": hex(&global.artifact),
            "sequence": global.sequence,
        })),
        "modules": modules,
    });
    let mut text =
        format!("{} parameters, norm of all changes {:.4}\n", summary.parameters, summary.norm);
    if let Some(meta) = meta {
        writeln!(text, "generation {}, {} steps", meta.generation, meta.steps)?;
    }
    if let Some(peft::Global { ranks, artifact, sequence }) = global {
        let artifact = hex(&artifact[..8]);
        writeln!(
            text,
            "the first {ranks} ranks are a global adapter's (sequence {sequence}, {artifact}), the rest its own"
        )?;
    }
    writeln!(text, "{:>5}  {:<10}{:>6}{:>9}{:>12}", "layer", "target", "rank", "scale", "norm")?;
    for module in &summary.modules {
        let (name, rank, scale, norm) =
            (module.target.name(), module.rank, module.scale, module.norm);
        writeln!(text, "{:>5}  {name:<10}{rank:>6}{scale:>9.3}{norm:>12.5}", module.layer)?;
    }
    Ok(console.result(&value, &text)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn diff(
    first: &Path,
    second: &Path,
    model: Option<&Path>,
    console: &Console,
) -> anyhow::Result<()> {
    let config = config(first, model)?;
    let (one, other) = (load(first, &config)?.0, load(second, &config)?.0);
    let diff = compare::diff(&one, &other)?;
    let plain = |distance: &compare::Distance| {
        json!({
            "first": distance.first,
            "second": distance.second,
            "difference": distance.difference,
            "relative": distance.relative,
            "cosine": distance.cosine,
        })
    };
    let modules: Vec<Value> = diff
        .modules
        .iter()
        .map(|(layer, target, distance)| {
            json!({ "layer": layer, "target": target.name(), "distance": plain(distance) })
        })
        .collect();
    let value = json!({ "event": "diff", "total": plain(&diff.total), "modules": modules });
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let mut text = format!(
        "{:>5}  {:<10}{:>12}{:>12}{:>10}{:>10}\n",
        "layer", "target", "first", "second", "relative", "cosine"
    );
    let row = |layer: &str, target: &str, distance: &compare::Distance| {
        format!(
            "{layer:>5}  {target:<10}{:>12.5}{:>12.5}{:>10}{:>10}\n",
            distance.first,
            distance.second,
            cell(distance.relative),
            cell(distance.cosine)
        )
    };
    for (layer, target, distance) in &diff.modules {
        text += &row(&layer.to_string(), target.name(), distance);
    }
    text += &row("all", "", &diff.total);
    Ok(console.result(&value, &text)?)
}
