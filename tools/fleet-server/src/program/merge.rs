//! `merge`: adapter folders in, the mean of what they change out, or one that few of them can move.
//!
//! - In: folders, read one after the other and again for each walk of the sum. Out: a new folder, what it
//!   leaves out, and a warning when that is much.
//! - Invariant: a folder that is another when it is read again ends the merge.

use super::folder::Folder;
use super::shown::line;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use fleet_server::aggregate::{
    self, Clip, DROPPED_MAX, Facts, Merged, Plan, Rule, Share, Source, Told,
};
use sapwood::adapter::peft::Meta;
use sapwood::adapter::{Adapter, Module, Spec, Strength};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Writes the weighted mean of what several adapters add to the weights of their base.
///
/// What an adapter adds to a weight is the product B A, and it is the products that are averaged: ranks
/// and alphas may differ, and so may the starts. The result is the best adapter of its rank; the command
/// tells how much of the mean a rank leaves out. Test the merged one on held-out text before it goes out.
#[derive(clap::Args)]
pub(crate) struct Merge {
    /// The folder to write; must not exist yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The adapter that the others were learned on top of: their mean is added to it.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Rank of every layer of the result; the largest among the inputs when left out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    rank: Option<u32>,
    /// One weight for each adapter, in their order, such as 2,1,1; equal when left out.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    weights: Option<Vec<f64>>,
    /// How adapters are weighed: by --weights alone, or so that a hostile fifth does not move the mean far.
    #[arg(long, value_enum, default_value = "mean")]
    merge: By,
    /// Whether an adapter that changes more than the median of them is drawn in to that; none when left
    /// out, median with --merge robust.
    #[arg(long, value_enum)]
    clip: Option<Reach>,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
    /// Adapter folders of one base, with the same targets; at least two, or one with --from.
    #[arg(required = true, value_name = "ADAPTER_DIR")]
    adapters: Vec<PathBuf>,
}

/// Beyond so many times the median an adapter is told of.
const FAR: f64 = 100.0;

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Mean,
    Robust,
}

#[derive(Clone, Copy, ValueEnum)]
enum Reach {
    None,
    Median,
}

/// Folders as updates.
struct Folders<'a> {
    paths: &'a [PathBuf],
    base_hash: [u8; 32],
    /// Of each folder when it was read first.
    hashes: Vec<[u8; 32]>,
    held: Option<Folder>,
}

impl Source for Folders<'_> {
    type Error = anyhow::Error;

    fn read(&mut self, at: usize) -> Result<&Adapter> {
        // Before the next is read: one less is in memory.
        self.held = None;
        let folder = Folder::read(&self.paths[at], Some(self.base_hash))?;
        let same = folder.hash == self.hashes[at];
        ensure!(same, "{} was changed while it was merged", folder.shown());
        Ok(&self.held.insert(folder).adapter)
    }
}

/// What a first look at all folders finds.
struct Looked {
    facts: Vec<Facts>,
    meta: Meta,
    /// The largest of each module, in the order of the modules.
    ranks: Vec<usize>,
}

impl Merge {
    pub(crate) fn run(&self) -> Result<()> {
        let (least, least_named) = if self.from.is_some() { (1, "one") } else { (2, "two") };
        let count = self.adapters.len();
        ensure!(
            count >= least,
            "a merge takes at least {least_named} adapters, got {count}; nothing was written"
        );
        let out = self.out.display();
        ensure!(!self.out.exists(), "{out} exists, expected a new folder; it is unchanged");
        let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; count]);
        ensure!(
            weights.len() == count,
            "--weights: expected {count}, one for each adapter, got {}",
            weights.len()
        );
        check(&weights)?;
        let (rule, clip) = self.rule()?;
        let first = Folder::read(self.from.as_ref().unwrap_or(&self.adapters[0]), None)?;
        let looked = self.look(&first, &weights)?;
        let spec = ranked(&first.adapter.spec, |at| {
            self.rank.map_or(looked.ranks[at], |rank| rank as usize)
        });
        let mut source = Folders {
            paths: &self.adapters,
            base_hash: first.meta.base_hash,
            hashes: looked.facts.iter().map(|facts| facts.hash).collect(),
            held: None,
        };
        let seed = seed(&looked.facts);
        let (mut weighed, mut found) = (looked.facts.clone(), None);
        if rule == Rule::Robust {
            let robust = aggregate::robust(&mut source, &spec, &looked.facts, seed)?;
            (weighed, found) = (robust.facts, Some(robust.told));
        }
        let shares = aggregate::shares(&weighed, clip, 1.0)?;
        let from = self.from.as_ref().map(|_| &first.adapter);
        let plan = Plan { spec: &spec, from, shares: &shares, seed };
        let merged = aggregate::merge(&mut source, &plan)?;
        let dropped = merged.dropped;
        let told = self.told(&merged, [&looked.facts, &weighed], &shares, found);
        first
            .replaced(looked.meta, merged.adapter)
            .write(&self.out)
            .with_context(|| format!("{out} was not written"))?;
        line(&told)?;
        self.warn(&looked.facts);
        if dropped > DROPPED_MAX {
            eprintln!(
                "warning: {:.1} % of the energy of the mean does not fit the rank, expected at most {} %; \
                 a larger --rank keeps more",
                100.0 * dropped,
                100.0 * DROPPED_MAX
            );
        }
        Ok(())
    }

    /// How adapters are weighed and how far each may reach.
    fn rule(&self) -> Result<(Rule, Clip)> {
        Ok(match (self.merge, self.clip) {
            (By::Mean, None | Some(Reach::None)) => (Rule::Mean, Clip::None),
            (By::Mean, Some(Reach::Median)) => (Rule::Mean, Clip::Median),
            (By::Robust, None | Some(Reach::Median)) => (Rule::Robust, Clip::Median),
            (By::Robust, Some(Reach::None)) => bail!(
                "--merge robust compares adapters that are drawn in: expected --clip median or none of the \
                 two, got --clip none; nothing was written"
            ),
        })
    }

    /// Reads every folder once: whether it fits, and what it says about itself.
    fn look(&self, first: &Folder, weights: &[f64]) -> Result<Looked> {
        let ranks = |adapter: &Adapter| -> Vec<usize> {
            adapter.spec.modules.iter().map(|module| module.rank).collect()
        };
        // In no module of the sum do the ranks of a global adapter come first.
        let meta = Meta { global: None, ..first.meta };
        let mut looked = Looked { facts: vec![], meta, ranks: ranks(&first.adapter) };
        for (at, (path, weight)) in self.adapters.iter().zip(weights).enumerate() {
            let next = Folder::read(path, Some(first.meta.base_hash))?;
            let agrees = first.agrees(&next);
            agrees.with_context(|| format!("{} does not fit {}", path.display(), first.shown()))?;
            // The schedule of the average goes on from the device that has learned longest.
            if next.meta.steps > looked.meta.steps {
                (looked.meta.steps, looked.meta.retain) = (next.meta.steps, next.meta.retain);
            }
            looked.meta.generation = looked.meta.generation.max(next.meta.generation);
            let next_ranks = ranks(&next.adapter);
            looked.facts.push(Facts {
                at,
                hash: next.hash,
                norm: aggregate::norm(&next.adapter)?,
                rank: next_ranks.iter().copied().max().unwrap_or(0),
                weight: *weight,
            });
            for (most, rank) in looked.ranks.iter_mut().zip(next_ranks) {
                *most = rank.max(*most);
            }
        }
        Ok(looked)
    }

    /// Says which adapters change nothing, or so much more than the others that something is wrong.
    fn warn(&self, facts: &[Facts]) {
        let mut norms: Vec<f64> = facts.iter().map(|one| one.norm).collect();
        norms.sort_by(f64::total_cmp);
        // The lower of two middles: of two adapters the larger one is told.
        let middle = norms[norms.len().saturating_sub(1) / 2];
        for one in facts {
            let folder = self.adapters[one.at].display();
            if one.norm == 0.0 {
                eprintln!("warning: {folder} changes nothing");
            } else if middle > 0.0 && one.norm > FAR * middle {
                let times = one.norm / middle;
                eprintln!(
                    "warning: {folder} changes {times:.0} times as much as the adapter in the middle, expected \
                     at most {FAR}"
                );
            }
        }
    }

    /// - `facts`: as they were found, and as they were weighed.
    fn told(
        &self,
        merged: &Merged,
        [facts, weighed]: [&[Facts]; 2],
        shares: &[Share],
        found: Option<Told>,
    ) -> String {
        let rank = merged.adapter.spec.modules.iter().map(|module| module.rank).max();
        let (rank, out) = (rank.unwrap_or(0), self.out.display());
        if !self.json {
            let count = self.adapters.len();
            let left = 100.0 * merged.dropped;
            let found = found.map(|told| format!(" (robust: {told})")).unwrap_or_default();
            return format!(
                "{out}: the mean of {count} adapters{found}, rank {rank}, {left:.1} % of its energy left out"
            );
        }
        let parts = aggregate::parts(weighed);
        let update = |share: &Share| {
            let folder: &Path = &self.adapters[share.at];
            let (norm, weight) = (facts[share.at].norm, parts.get(&share.at));
            json!({"folder": folder, "norm": norm, "factor": share.factor, "weight": weight})
        };
        let mut shares = shares.to_vec();
        shares.sort_by_key(|share| share.at);
        let updates: Vec<_> = shares.iter().map(update).collect();
        let rule = if found.is_some() { Rule::Robust } else { Rule::Mean };
        json!({"out": self.out, "rank": rank, "dropped": merged.dropped, "merge": rule,
            "robust": found, "updates": updates})
        .to_string()
    }
}

/// What the command was told, before anything is read.
fn check(weights: &[f64]) -> Result<()> {
    for weight in weights {
        ensure!(
            weight.is_finite() && *weight >= 0.0,
            "--weights: expected finite numbers of at least 0, got {weight}"
        );
    }
    let sum: f64 = weights.iter().sum();
    ensure!(sum > 0.0 && sum.is_finite(), "--weights: expected a positive sum, got {sum}");
    Ok(())
}

/// The same modules with other ranks and scale 1; `rank`: of the module at a place.
fn ranked(spec: &Spec, rank: impl Fn(usize) -> usize) -> Spec {
    let layers = spec.modules.last().map_or(0, |module| module.layer + 1);
    Spec::placed(0..layers, |layer, target| {
        let same = |module: &Module| module.layer == layer && module.target == target;
        let at = spec.modules.iter().position(same)?;
        let (rank, module) = (rank(at), &spec.modules[at]);
        Some((Strength { rank, alpha: rank as f32 }, (module.fan_in, module.fan_out)))
    })
}

/// The same for the same adapters.
fn seed(facts: &[Facts]) -> [u8; 32] {
    let mut hashes: Vec<[u8; 32]> = facts.iter().map(|facts| facts.hash).collect();
    hashes.sort_unstable();
    *blake3::hash(hashes.as_flattened()).as_bytes()
}
