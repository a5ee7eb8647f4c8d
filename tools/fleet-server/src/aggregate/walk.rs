//! The terms of M, module by module: the global adapter first, then the updates, a few in memory.
//!
//! - In: a source that can be read again, and a plan. Out: factors and what to multiply them by.
//! - Invariant: every walk gives the same terms in the same order.

use super::product::{Left, Processor, add_product, turn};
use super::{AggregateError, Plan, Source};
use sapwood::adapter::{Adapter, Module, Spec};

/// Updates in memory at a time: what a module's sums and probes take of the cache is fetched once for all.
const TOGETHER: usize = 8;

/// One term of one module: `factor B A`.
pub(super) struct Term<'a> {
    /// The module's place in the plan's spec.
    pub(super) at: usize,
    pub(super) rank: usize,
    pub(super) factor: f64,
    /// `[rank, fan_in]`.
    pub(super) a: &'a [f32],
    /// `[fan_out, rank]`.
    pub(super) b: &'a [f32],
}

/// Offers every term of the sum to `take`: those of a module in the order of the plan.
pub(super) fn walk<S: Source>(
    source: &mut S,
    plan: &Plan<'_>,
    mut take: impl FnMut(Term<'_>),
) -> Result<(), S::Error> {
    if let Some(from) = plan.from {
        fits(from, plan.spec)?;
        terms(&[(from.clone(), 1.0)], &mut take);
    }
    let mut held: Vec<(Adapter, f64)> = Vec::new();
    for shares in plan.shares.chunks(TOGETHER) {
        held.resize_with(shares.len(), || {
            (Adapter { spec: Spec { modules: vec![] }, values: vec![] }, 0.0)
        });
        for (share, (adapter, factor)) in shares.iter().zip(&mut held) {
            let update = source.read(share.at)?;
            fits(update, plan.spec)?;
            adapter.spec.modules.clone_from(&update.spec.modules);
            adapter.values.clone_from(&update.values);
            *factor = share.factor;
        }
        terms(&held, &mut take);
    }
    Ok(())
}

/// The terms of some adapters of the same modules, module by module.
fn terms(adapters: &[(Adapter, f64)], take: &mut impl FnMut(Term<'_>)) {
    let modules = adapters.first().map_or(0, |(adapter, _)| adapter.spec.modules.len());
    for at in 0..modules {
        for (adapter, factor) in adapters {
            take(term(adapter, at, *factor));
        }
    }
}

/// One module of an adapter.
pub(super) fn term(adapter: &Adapter, at: usize, factor: f64) -> Term<'_> {
    let module = &adapter.spec.modules[at];
    Term {
        at,
        rank: module.rank,
        factor: factor * f64::from(module.scale),
        a: adapter.a(module),
        b: adapter.b(module),
    }
}

/// Whether an adapter is made of the spec's modules, of whatever ranks.
pub(super) fn fits(adapter: &Adapter, spec: &Spec) -> Result<(), AggregateError> {
    let place = |module: &Module| (module.layer, module.target, module.fan_in, module.fan_out);
    let same = adapter.spec.modules.iter().map(place).eq(spec.modules.iter().map(place));
    let whole = adapter.values.len() == adapter.spec.len();
    if same && whole { Ok(()) } else { Err(AggregateError::Modules) }
}

/// The Frobenius norm of all products of an adapter together, by traces of `r x r` matrices.
///
/// # Errors
/// [`AggregateError::NotFinite`] when a number is not, [`AggregateError::Modules`] when spec and
/// numbers disagree.
pub fn norm(adapter: &Adapter) -> Result<f64, AggregateError> {
    norm_on(Processor::widest(), adapter)
}

pub(super) fn norm_on(processor: Processor, adapter: &Adapter) -> Result<f64, AggregateError> {
    fits(adapter, &adapter.spec)?;
    if !adapter.values.iter().all(|number| number.is_finite()) {
        return Err(AggregateError::NotFinite);
    }
    let (mut square, mut turned) = (0.0, Vec::<f32>::new());
    for at in 0..adapter.spec.modules.len() {
        let term = term(adapter, at, 1.0);
        let rank = term.rank;
        let (mut rows, mut columns) = (vec![0.0; rank * rank], vec![0.0; rank * rank]);
        turn(term.a, term.a.len() / rank, &mut turned);
        let left = Left::plain(term.a, term.a.len() / rank);
        add_product(processor, &mut rows, left, &turned, rank);
        let left = Left::transposed(term.b, rank);
        add_product(processor, &mut columns, left, term.b, rank);
        let trace: f64 = rows.iter().zip(&columns).map(|(row, column)| row * column).sum();
        square += term.factor * term.factor * trace;
    }
    Ok(square.max(0.0).sqrt())
}
