//! `sapwood replay stats|verify` and `sapwood rollback`: a look into a state folder.

use super::adapt::open;
use super::args::{Replay, Rollback};
use super::chosen::look;
use super::console::{Console, bytes};
use anyhow::Context;
use serde_json::json;

/// Shows or checks the reservoir of the last commit.
pub(crate) fn replay(action: &Replay, console: &Console) -> anyhow::Result<()> {
    let (folder, verify) = match action {
        Replay::Stats { state } => (state, false),
        Replay::Verify { state } => (state, true),
    };
    let state = look(folder, console)?;
    let mut reservoir = state
        .committed_reservoir()?
        .with_context(|| format!("{} has no reservoir yet", folder.display()))?;
    let known = state.learner()?.map(|record| record.domains).unwrap_or_default();
    let sound = if verify { Some(reservoir.verify()?) } else { None };
    let stats = reservoir.stats();
    let lost: Vec<String> = reservoir
        .lost()
        .iter()
        .map(|lost| format!("slot {}: {}", lost.slot, lost.reason))
        .collect();
    let name = |number: u32| {
        let known = known.iter().find(|known| known.number == number);
        known.map_or_else(|| format!("domain {number}"), |known| known.name.clone())
    };
    // A list: two domains may have the same name.
    let row = |(&number, &held): (&u32, &u32)| json!({ "number": number, "name": name(number), "held": held });
    let domains: Vec<_> = stats.per_domain.iter().map(row).collect();
    let value = json!({
        "event": "replay", "capacity": stats.capacity, "held": stats.held, "seen": stats.seen,
        "corrupt": stats.corrupt, "bytes": stats.bytes, "sound": sound, "lost": lost,
        "domains": domains,
    });
    let mut text = format!(
        "{} of {} blocks held, {} ever offered, {} lost to damage, file of {}\n",
        stats.held,
        stats.capacity,
        stats.seen,
        stats.corrupt,
        bytes(stats.bytes)
    );
    for (&number, held) in &stats.per_domain {
        text += &format!("  {:<24}{held:>7}\n", name(number));
    }
    if let Some(sound) = sound {
        text += &format!("{sound} blocks were read and are sound\n");
    }
    for line in &lost {
        text += &format!("{line}\n");
    }
    console.result(&value, &text)?;
    anyhow::ensure!(
        !verify || lost.is_empty(),
        "{} blocks are damaged; learning goes on without them",
        lost.len()
    );
    Ok(())
}

/// Makes an earlier generation current again.
pub(crate) fn rollback(args: &Rollback, console: &Console) -> anyhow::Result<()> {
    // Looked at first, so that a mistyped folder is not made.
    look(&args.state, console)?;
    let mut state = open(&args.state, console)?;
    let before = state.current().map(|generation| generation.number);
    let number = state.rollback(args.to)?;
    let kept: Vec<u64> = state.generations().iter().map(|generation| generation.number).collect();
    let value =
        json!({ "event": "rollback", "before": before, "generation": number, "kept": kept });
    let before = before.map_or("none".to_owned(), |number| number.to_string());
    let text = format!("generation in use: {number} (before: {before}); kept: {kept:?}");
    Ok(console.result(&value, &text)?)
}
