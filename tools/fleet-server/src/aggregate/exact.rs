//! The exact way: all factors of a module stacked, two QR decompositions, the SVD of what is between.
//!
//! - In: the terms, in one walk. Out: the best matrix of the wanted rank for each module.
//! - Memory grows with the ranks together; [`Plan::exact`] says up to where.

use super::dense::{Rows, qr, svd};
use super::product::{Left, Processor, add_product};
use super::sketch::Gaussian;
use super::walk::{Term, walk};
use super::{AggregateError, Plan, Source, Truncated};

/// The factors of one module so far.
#[derive(Default)]
struct Stack {
    /// `[ranks, fan_in]`
    a: Vec<f64>,
    /// `[ranks, fan_out]`, with the terms' factors.
    b: Vec<f64>,
}

impl Stack {
    fn push(&mut self, term: &Term<'_>) {
        self.a.extend(term.a.iter().map(|number| f64::from(*number)));
        for rank in 0..term.rank {
            let column = term.b.iter().skip(rank).step_by(term.rank);
            self.b.extend(column.map(|number| term.factor * f64::from(*number)));
        }
    }
}

/// The merged modules, exact but for rounding.
pub(super) fn merge<S: Source>(
    processor: Processor,
    source: &mut S,
    plan: &Plan<'_>,
) -> Result<Vec<Truncated>, S::Error> {
    let modules = &plan.spec.modules;
    let mut stacks: Vec<Stack> = modules.iter().map(|_| Stack::default()).collect();
    walk(source, plan, |term| stacks[term.at].push(&term))?;
    let chance = Gaussian::new(plan, 0, plan.rank_max());
    let merged = stacks.into_iter().zip(modules).map(|(mut stack, module)| {
        // Directions in which nothing was learned, so that all ranks of the result can learn.
        let held = stack.a.len() / module.fan_in;
        for column in held..module.rank {
            stack.a.extend(chance.column(column).take(module.fan_in));
            stack.b.extend(std::iter::repeat_n(0.0, module.fan_out));
        }
        let a = qr(processor, Rows { numbers: stack.a, width: module.fan_in });
        let b = qr(processor, Rows { numbers: stack.b, width: module.fan_out });
        // W = Rb Ra^T; its columns are the rows of Ra Rb^T.
        let mut columns = Rows::zeros(a.triangle.len(), b.triangle.len());
        let (ranks, width) = (a.triangle.width, columns.width);
        let turned: Vec<f64> = (0..ranks)
            .flat_map(|rank| (0..width).map(move |row| (row, rank)))
            .map(|(row, rank)| b.triangle.row(row)[rank])
            .collect();
        let left = Left::plain(&a.triangle.numbers, ranks);
        add_product(processor, &mut columns.numbers, left, &turned, width);
        truncate(processor, columns, &b.orthonormal, &a.orthonormal, module.rank)
    });
    Ok(merged.collect::<Result<_, AggregateError>>()?)
}

/// The part of rank `rank` of `left^T W right`; `columns`: of W; `left`, `right`: orthonormal rows.
pub(super) fn truncate(
    processor: Processor,
    columns: Rows,
    left: &Rows,
    right: &Rows,
    rank: usize,
) -> Result<Truncated, AggregateError> {
    let svd = svd(processor, columns).ok_or(AggregateError::Unsettled)?;
    let kept = rank.min(svd.values.len());
    let mut part = Truncated {
        left: Rows::zeros(rank, left.width),
        right: Rows::zeros(rank, right.width),
        values: svd.values[..kept].to_vec(),
        dropped: svd.values[kept..].iter().map(|value| value * value).sum(),
    };
    for (sums, rows, from) in
        [(&mut part.left, &svd.scaled, left), (&mut part.right, &svd.turned, right)]
    {
        let left = Left::plain(&rows.numbers[..kept * rows.width], rows.width);
        let sums = &mut sums.numbers[..kept * from.width];
        add_product(processor, sums, left, &from.numbers, from.width);
    }
    Ok(part)
}
