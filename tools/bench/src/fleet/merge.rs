//! What the server makes of the own parts: the mean of their products, and for comparison of their factors.
//!
//! - In: own parts, the global adapter they stand on. Out: the next one, at scale 1.
//! - The arithmetic is the server's own, clipped at the median as it does; every device weighs alike, but by
//!   the robust rule.

use anyhow::Result;
use fleet_server::aggregate::{self, AggregateError, Clip, Facts, Merged, Plan, Rule, Source};
use sapwood::adapter::{Adapter, Spec};

/// Of a round: every merge draws the same sketches.
const SEED: [u8; 32] = [0; 32];

struct Updates<'a>(&'a [Adapter]);

impl Source for Updates<'_> {
    type Error = AggregateError;

    fn read(&mut self, at: usize) -> Result<&Adapter, AggregateError> {
        Ok(&self.0[at])
    }
}

/// `G + eta sum(w c U)` of the products U, in the ranks of `spec`.
pub(crate) fn weighed(
    rule: Rule,
    updates: &[Adapter],
    from: Option<&Adapter>,
    spec: &Spec,
    eta: f64,
) -> Result<Merged> {
    let facts: Result<Vec<Facts>, AggregateError> = updates
        .iter()
        .enumerate()
        .map(|(at, update)| {
            let bytes: Vec<u8> = update.values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let rank = update.spec.modules.iter().map(|module| module.rank).max().unwrap_or(0);
            let (hash, norm) = (*blake3::hash(&bytes).as_bytes(), aggregate::norm(update)?);
            Ok(Facts { at, hash, norm, rank, weight: 1.0 })
        })
        .collect();
    let (mut facts, source) = (facts?, &mut Updates(updates));
    if rule == Rule::Robust {
        facts = aggregate::robust(source, spec, &facts, SEED)?.facts;
    }
    let shares = aggregate::shares(&facts, Clip::Median, eta)?;
    let plan = Plan { spec, from, shares: &shares, seed: SEED };
    Ok(aggregate::merge(source, &plan)?)
}

/// The same, every device alike.
pub(crate) fn products(
    updates: &[Adapter],
    from: Option<&Adapter>,
    spec: &Spec,
    eta: f64,
) -> Result<Merged> {
    weighed(Rule::Mean, updates, from, spec, eta)
}

/// The same with the mean of the factors in place of that of the products.
pub(crate) fn factors(
    updates: &[Adapter],
    from: Option<&Adapter>,
    spec: &Spec,
    eta: f64,
) -> Result<Merged> {
    let mut mean = updates[0].clone();
    let value = |at: usize| updates.iter().map(|update| f64::from(update.values[at])).sum::<f64>();
    for (at, to) in mean.values.iter_mut().enumerate() {
        *to = (value(at) / updates.len() as f64) as f32;
    }
    products(&[mean], from, spec, eta)
}
