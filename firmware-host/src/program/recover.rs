//! `firmware-host recover --from-adapters`: a state folder whose manifests are lost goes on.
//!
//! - Where a manifest can be read nothing is done: the program itself falls back from a damaged one.
//! - Never here: what a manifest says, which is the state's.

use super::cli;
use super::own;
use super::show;
use firmware_host::config::Config;
use sapwood::adapter::peft;
use sapwood::inbox::Inbox;
use sapwood::state::{AdapterFiles, LearnerRecord, Rebuilt, State};
use serde_json::json;

/// Names what is whole again, and says what was found.
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<()> {
    let folder = cli::state(config)?;
    anyhow::ensure!(folder.is_dir(), "{} is no folder; nothing was changed", folder.display());
    let disk = own::disk(config)?;
    Inbox::refuse_newer(&disk)?;
    let rebuilt = State::rebuild(&disk, Inbox::learned_at_least(&disk)?, &whole)?;
    let Rebuilt { generations, passed_over, reservoir_only, blocks, kept } = &rebuilt;
    let value = json!({
        "generations": generations, "passed_over": passed_over, "reservoir_only": reservoir_only, "blocks": blocks, "kept": kept,
    });
    let newest = generations.last().copied().unwrap_or_default();
    let mut text = match reservoir_only {
        true => {
            "the reservoir was lost and begins anew with the next job; generations stay\n".into()
        }
        false => format!(
            "generation {newest} is in use; {} found whole, {blocks} blocks in the reservoir\n\
             samples that were learned and still lay in the inbox are learned again\n",
            generations.len()
        ),
    };
    for line in passed_over {
        text += &format!("passed over: {line}\n");
    }
    for name in kept {
        text += &format!("kept: {name}\n");
    }
    show::result(json, &value, text.trim_end())
}

/// An adapter belongs to a learner when its tensors are the numbers of slow.
fn whole(learner: &LearnerRecord, files: &AdapterFiles) -> Result<(), String> {
    let tensors = files.iter().find(|(name, _)| name == peft::TENSORS_FILE);
    let has_config = files.iter().any(|(name, _)| name == peft::CONFIG_FILE);
    let Some((_, tensors)) = tensors.filter(|_| has_config) else {
        return Err(format!("{} or {} is missing", peft::CONFIG_FILE, peft::TENSORS_FILE));
    };
    match peft::holds(tensors, &learner.slow) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{} has other numbers than its learner", peft::TENSORS_FILE)),
        Err(error) => Err(error.to_string()),
    }
}
