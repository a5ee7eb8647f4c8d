//! The way for many updates: the range of M from a sketch, then M within that range.
//!
//! - In: the terms, walked twice; four times where there is no global adapter to start from. Out: for
//!   each module nearly the best matrix of the wanted rank, and what it leaves out, estimated.
//! - M is never formed: memory is that of `rank + 16` rows a module, however many updates there are.
//!
//! Source: Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.3 and 4.4.

use super::dense::{Rows, qr};
use super::exact::truncate;
use super::product::{Left, Processor, add_product, add_scaled, dot, turn};
use super::walk::{Term, walk};
use super::{AggregateError, Plan, Source, Truncated};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Columns of chance beside those that are wanted.
pub(super) const SPARE: usize = 16;

/// Columns of normal numbers, the same for every module: each takes as many rows as it is wide.
pub(super) struct Gaussian {
    /// `[rows, columns]`
    numbers: Vec<f64>,
    columns: usize,
}

impl Gaussian {
    /// `stream`: sketches of different streams know nothing of each other.
    pub(super) fn new(plan: &Plan<'_>, stream: u64, columns: usize) -> Self {
        let rows = plan.spec.modules.iter().map(|module| module.fan_in).max().unwrap_or(0);
        Self::drawn(plan.seed, stream, rows, columns)
    }

    /// Of so many rows.
    pub(super) fn drawn(seed: [u8; 32], stream: u64, rows: usize, columns: usize) -> Self {
        let mut chance = ChaCha8Rng::from_seed(seed);
        chance.set_stream(stream);
        // Twelve uniform numbers: near enough to normal, and without a logarithm, whose last bit
        // depends on the system.
        let mut normal = || {
            let sum: f64 = (0..12).map(|_| f64::from(chance.next_u32())).sum();
            sum / 4_294_967_296.0 - 6.0
        };
        Self { numbers: (0..rows * columns).map(|_| normal()).collect(), columns }
    }

    /// One column from its first row on.
    pub(super) fn column(&self, at: usize) -> impl Iterator<Item = f64> {
        self.numbers.iter().skip(at).step_by(self.columns).copied()
    }

    /// All columns from that row on.
    pub(super) fn rows_from(&self, row: usize) -> &[f64] {
        &self.numbers[row * self.columns..]
    }
}

/// Buffers of the walks, used for one module after the other.
#[derive(Default)]
struct Scratch {
    turned: Vec<f32>,
    small: Vec<f64>,
}

impl Scratch {
    /// `sums += (factor B A probes)^T`; `probes`: `[fan_in, columns]`, `sums`: `[columns, fan_out]`.
    fn add_image(
        &mut self,
        processor: Processor,
        sums: &mut Rows,
        term: &Term<'_>,
        probes: &[f64],
    ) {
        let columns = sums.len();
        self.weighed(term.rank * columns);
        let left = Left::plain(term.a, term.a.len() / term.rank);
        add_product(processor, &mut self.small, left, probes, columns);
        self.small.iter_mut().for_each(|number| *number *= term.factor);
        turn(term.b, term.rank, &mut self.turned);
        let left = Left::transposed(&self.small, columns);
        add_product(processor, &mut sums.numbers, left, &self.turned, sums.width);
    }

    /// `sums += factor range B A`; `range`: `[rows, fan_out]`, `sums`: `[rows, fan_in]`.
    fn add_within(&mut self, processor: Processor, sums: &mut Rows, term: &Term<'_>, range: &Rows) {
        self.weighed(range.len() * term.rank);
        let left = Left::plain(&range.numbers, range.width);
        add_product(processor, &mut self.small, left, term.b, term.rank);
        self.small.iter_mut().for_each(|number| *number *= term.factor);
        let left = Left::plain(&self.small, term.rank);
        add_product(processor, &mut sums.numbers, left, term.a, sums.width);
    }

    fn weighed(&mut self, numbers: usize) {
        self.small.clear();
        self.small.resize(numbers, 0.0);
    }
}

/// The merged modules, nearly the best of their rank.
pub(super) fn merge<S: Source>(
    processor: Processor,
    source: &mut S,
    plan: &Plan<'_>,
) -> Result<Vec<Truncated>, S::Error> {
    let mut probes = first_probes(plan);
    if cold(plan) {
        let ranges = ranges(processor, source, plan, &probes)?;
        let within = within(processor, source, plan, &ranges, None)?;
        probes =
            within.into_iter().map(|(rows, _)| turned(&qr(processor, rows).orthonormal)).collect();
    }
    let ranges = ranges(processor, source, plan, &probes)?;
    drop(probes);
    let chance = Gaussian::new(plan, 1, SPARE);
    let within = within(processor, source, plan, &ranges, Some(&chance))?;
    let merged = within.into_iter().zip(&ranges).zip(&plan.spec.modules).map(
        |(((rows, images), range), module)| {
            // Z = triangle^T orthonormal: the columns of triangle^T are the rows of the triangle.
            let z = qr(processor, rows);
            let mut part = truncate(processor, z.triangle, range, &z.orthonormal, module.rank)?;
            part.dropped += outside(images, range);
            Ok(part)
        },
    );
    Ok(merged.collect::<Result<_, AggregateError>>()?)
}

/// Whether there is nothing to start from: chance alone finds the range of M less well, so that what it
/// finds is what the second look goes through.
fn cold(plan: &Plan<'_>) -> bool {
    plan.from.is_none_or(|from| {
        let still = |module| from.b(module).iter().all(|number| *number == 0.0);
        from.spec.modules.iter().all(still)
    })
}

/// What M is looked at through: the rows of the global adapter, the rest chance. `[fan_in, columns]`
fn first_probes(plan: &Plan<'_>) -> Vec<Rows> {
    let most = plan.rank_max() + SPARE;
    let chance = Gaussian::new(plan, 0, most);
    let probes = plan.spec.modules.iter().enumerate().map(|(at, module)| {
        let known = plan.from.map(|from| (from, &from.spec.modules[at]));
        let held = known.map_or(0, |(_, module)| module.rank);
        let columns = module.rank.max(held) + SPARE;
        let mut probes = Rows::zeros(module.fan_in, columns);
        for (row, probe) in probes.numbers.chunks_exact_mut(columns).enumerate() {
            if let Some((from, known)) = known {
                let rows = from.a(known).iter().skip(row).step_by(known.fan_in);
                probe.iter_mut().zip(rows).for_each(|(to, number)| *to = f64::from(*number));
            }
            let spare = &chance.numbers[row * most..][..columns - held];
            probe[held..].copy_from_slice(spare);
        }
        probes
    });
    probes.collect()
}

/// Orthonormal rows that span what M makes of the probes, for each module.
fn ranges<S: Source>(
    processor: Processor,
    source: &mut S,
    plan: &Plan<'_>,
    probes: &[Rows],
) -> Result<Vec<Rows>, S::Error> {
    let modules = plan.spec.modules.iter().zip(probes);
    let mut images: Vec<Rows> =
        modules.map(|(module, probes)| Rows::zeros(probes.width, module.fan_out)).collect();
    let mut scratch = Scratch::default();
    walk(source, plan, |term| {
        let (image, probes) = (&mut images[term.at], &probes[term.at]);
        scratch.add_image(processor, image, &term, &probes.numbers);
    })?;
    Ok(images.into_iter().map(|image| qr(processor, image).orthonormal).collect())
}

/// M within the ranges, `[rows, fan_in]`; and what M makes of other chance, `[16, fan_out]`.
fn within<S: Source>(
    processor: Processor,
    source: &mut S,
    plan: &Plan<'_>,
    ranges: &[Rows],
    chance: Option<&Gaussian>,
) -> Result<Vec<(Rows, Rows)>, S::Error> {
    let modules = plan.spec.modules.iter().zip(ranges);
    let columns = chance.map_or(0, |chance| chance.columns);
    let mut sums: Vec<(Rows, Rows)> = modules
        .map(|(module, range)| {
            let images = Rows::zeros(columns, module.fan_out);
            (Rows::zeros(range.len(), module.fan_in), images)
        })
        .collect();
    let mut scratch = Scratch::default();
    walk(source, plan, |term| {
        let (rows, images) = &mut sums[term.at];
        if let Some(chance) = chance {
            let probes = &chance.numbers[..rows.width * columns];
            scratch.add_image(processor, images, &term, probes);
        }
        scratch.add_within(processor, rows, &term, &ranges[term.at]);
    })?;
    Ok(sums)
}

fn turned(rows: &Rows) -> Rows {
    let mut numbers = Vec::new();
    turn(&rows.numbers, rows.width, &mut numbers);
    Rows { numbers, width: rows.len() }
}

/// The energy of M outside a range, from what M makes of chance: each column's is that on average.
fn outside(mut images: Rows, range: &Rows) -> f64 {
    let count = images.len();
    let mut energy = 0.0;
    for image in images.numbers.chunks_exact_mut(range.width) {
        for row in 0..range.len() {
            let along = dot(image, range.row(row));
            add_scaled(image, -along, range.row(row));
        }
        energy += dot(image, image);
    }
    energy / count as f64
}
