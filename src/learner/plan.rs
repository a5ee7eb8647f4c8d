//! What a job does where nobody said otherwise: by the base, the data, the state and the machine.
//!
//! - In: the base's configuration, the user's wishes, what a state folder already holds, how much there
//!   is to learn. Out: settings, and one line that says what was chosen.
//! - Order: a wish wins, then what the state holds (an adapter keeps its shape, a reservoir its sizes, a
//!   job that goes on all of its settings), then the choice made here, then the default.
//! - The same base, data and number of threads give the same settings: no clock is asked.
//! - Never here: reading data.

use super::{LearnError, anchor, fits, geometry};
use crate::adapter::Target;
use crate::base::Config;
use crate::reservoir::{Geometry, ReservoirError};
use crate::settings::{MatmulPrecision, Overrides, Settings};
use crate::state::{LearnerRecord, State};
use std::fmt::{self, Write as _};

/// The rate times the root of the hidden width: 5.2e-3 at 192 and 3e-3 at 576 are the best of what was
/// tried on the shipped base and on SmolLM2-135M.
const RATE_ROOT: f64 = 0.072;
/// No rate is lower or higher.
const RATES: (f64, f64) = (1e-4, 1e-2);
/// Of the layers, every fourth learns, the top ones, but at least so many.
const LAYERS_MIN: usize = 4;
/// Below this hidden width an adapter of twice the rank is still small.
const SMALL_WIDTH: usize = 512;
/// How strongly the inputs of A are whitened below that width; on a larger base the anchor does as well
/// without.
const SMALL_WHITENING: f64 = 30.0;
/// Texts of its own in a batch, and their weight, from that width on: what one text says of the base is too
/// little to be followed that strictly, and a base that is worth keeping is lost sooner than a small one.
const LARGE_ANCHOR: (usize, f64) = (3, 6.0);
/// Steps of a job of such a base until which it learns so much at each that slow, looking back as far as in
/// a longer one, would be behind: it looks back over less of a shorter one, in the proportion of its steps.
const STEEP_STEPS: u64 = 280;
/// Least that slow keeps then: what 40 steps do well with on most kinds of text.
const STEEP_RETAIN_MIN: f64 = 0.8;
/// Tokens that the base may write for itself before a device's first job, times its parameters: two minutes of
/// one thread where memory is read at 30 GB/s, if each token read it alone. Abreast they take a part of that.
const OWN_WORK: f64 = 1.6e12;
/// Fewest and most texts of its own.
const OWN_TEXTS: (usize, usize) = (16, 512);
/// Passes over the data, if that is not too few or too many steps.
const EPOCHS: f64 = 2.0;
/// Fewest steps, however little data there is.
const STEPS_MIN: u64 = 40;
/// Most steps, however much there is.
const STEPS_MAX: u64 = 400;
/// Multiplications and additions that a job may take for each thread: five minutes at 100 GFLOP/s, half of what
/// the instructions for bf16 make of it; a quarter of an hour at 30.
const WORK_MAX: f64 = 300.0 * 100e9;
/// Half-lives of the average in a job: slow is where fast was in its last fifth.
const HALF_LIVES: f64 = 5.0;
/// Most that the average keeps at a step.
const RETAIN_MAX: f64 = 0.995;

/// The settings of a job before its data was cut into blocks, and what of them is not to be chosen.
pub struct Plan {
    config: Config,
    said: Overrides,
    settings: Settings,
    passes: Option<f64>,
}

impl Plan {
    /// Everything about a job but how long it is; `resumed`: the state's interrupted job goes on.
    ///
    /// # Errors
    /// [`LearnError::State`] when the state cannot be read; [`LearnError::Settings`] when a checkpoint
    /// of another version names settings that this one does not know, or a setting is out of range.
    pub fn new(
        config: &Config,
        state: &State,
        wishes: Overrides,
        resumed: bool,
    ) -> Result<Self, LearnError> {
        let mut said = wishes.together()?;
        if let Some(checkpoint) = state.take_checkpoint()?.filter(|_| resumed) {
            // Of a job that goes on it is decided.
            said.matmul_precision.take_if(|said| *said == MatmulPrecision::Auto);
            said = said.or(Overrides::from_identity(&checkpoint.learner.settings)?);
        }
        let ranks = state.ranks();
        if let Some(record) = state.learner()? {
            said = said.or(shape(&record, config));
        }
        let held = state.committed_reservoir()?.map(|reservoir| *reservoir.geometry());
        if let Some(held) = &held {
            if !resumed && said.replay_bytes.flatten().is_some_and(|bytes| fills(held, bytes)) {
                // The bytes are those that it was made for; other batches now would divide them otherwise.
                said.replay_bytes = Some(None);
            }
            said = said.or(sizes(held));
        }
        let settings = Settings::default().merge(said.clone().or(by_base(config)));
        settings.check()?;
        fits::check(config, &settings, ranks)?;
        if let Some(held) = held.filter(|_| settings.replay_batch_size > 0) {
            let wanted = geometry(config, &settings)?;
            // Of another vocabulary is of another base, which whoever opens it says by name.
            if held.vocab == wanted.vocab {
                serves(&held, &wanted, settings.fresh_blocks())?;
            }
        }
        Ok(Self { config: config.clone(), said, settings, passes: None })
    }

    /// The same with so many passes over the data in place of a number of steps.
    pub fn passes(mut self, passes: Option<f64>) -> Self {
        self.passes = passes;
        self
    }

    /// The settings as far as they are known.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps, and what the average keeps at each, for `blocks` of `tokens` in all, where nobody said it.
    pub fn fit(self, blocks: usize, tokens: usize, threads: usize) -> Settings {
        let Self { config, said, settings, passes } = self;
        let fresh = f64::from(settings.fresh_blocks().max(1));
        let by_data = (EPOCHS * blocks as f64 / fresh).ceil() as u64;
        let length = tokens as f64 / blocks.max(1) as f64;
        let by_work = WORK_MAX * threads as f64 / work(&settings, &config, length);
        let most = STEPS_MAX.min(by_work as u64).max(STEPS_MIN);
        let by_passes =
            passes.map(|passes| (passes * blocks as f64 / fresh).ceil().max(1.0) as u64);
        let iters = by_passes.or(said.iters).unwrap_or_else(|| by_data.clamp(STEPS_MIN, most));
        let retain = said.retain.unwrap_or_else(|| retain_for(&config, &settings, iters));
        Settings { iters, retain, ..settings }
    }
}

/// Whether a reservoir has as many blocks as its other sizes leave room for in `bytes`.
fn fills(geometry: &Geometry, bytes: u64) -> bool {
    let Geometry { tokens_max, vocab, hidden, room, .. } = *geometry;
    let wanted = Geometry::for_bytes(bytes, tokens_max, vocab, hidden, room);
    wanted.is_ok_and(|wanted| wanted == *geometry)
}

/// Whether the reservoir that is there can be learned with.
pub(super) fn serves(held: &Geometry, wanted: &Geometry, fresh: u32) -> Result<(), LearnError> {
    if !held.serves(wanted) {
        let (expected, got) = (Box::new(*wanted), Box::new(*held));
        return Err(ReservoirError::Geometry { expected, got }.into());
    }
    match held.room < fresh {
        true => Err(LearnError::Room { fresh, room: held.room }),
        false => Ok(()),
    }
}

/// The settings of work that stands on no state: the choice by the base, where nobody said otherwise.
///
/// # Errors
/// [`LearnError::Settings`] when a setting is out of range.
pub fn for_base(config: &Config, wishes: Overrides) -> Result<Settings, LearnError> {
    let wishes = wishes.together()?;
    let retain = wishes.retain;
    let mut settings = Settings::default().merge(wishes.or(by_base(config)));
    settings.retain = retain.unwrap_or_else(|| retain_for(config, &settings, settings.iters));
    settings.check()?;
    fits::check(config, &settings, 0)?;
    Ok(settings)
}

/// What slow keeps in a job of `iters` steps where nobody said it: half of the way where it moves now and then,
/// else so much that the average reaches back over the last fifth of them, or less in a shorter job of a larger
/// base.
pub fn retain_for(config: &Config, settings: &Settings, iters: u64) -> f64 {
    if config.hidden < SMALL_WIDTH || settings.reptile_steps > 0 {
        return retain_of(settings, iters);
    }
    let reach = iters.saturating_mul(iters.min(STEEP_STEPS)) / STEEP_STEPS;
    retain_of(settings, reach).max(STEEP_RETAIN_MIN)
}

/// The same over `iters` steps, whatever the base.
pub(super) fn retain_of(settings: &Settings, iters: u64) -> f64 {
    if settings.reptile_steps > 0 {
        return 0.5;
    }
    let retain = 0.5f64.powf(HALF_LIVES / iters.max(1) as f64).min(RETAIN_MAX);
    (retain * 1e4).round() / 1e4
}

/// The sizes of a reservoir, which never change.
fn sizes(geometry: &Geometry) -> Overrides {
    Overrides {
        max_seq_length: Some(geometry.tokens_max as usize),
        replay_hidden: Some(geometry.hidden.is_some()),
        replay_blocks: Some(u64::from(geometry.capacity)),
        ..Overrides::default()
    }
}

/// What fits a base: layers, rank, rate, length of a block.
fn by_base(config: &Config) -> Overrides {
    let start = Settings::default();
    let layers = config.layers.div_ceil(4).max(LAYERS_MIN).min(config.layers);
    let (rank, whitening, (texts, weight)) = match config.hidden < SMALL_WIDTH {
        true => (2 * start.rank, SMALL_WHITENING, (start.anchor_batch_size, start.anchor_weight)),
        false => (start.rank, start.whitening, LARGE_ANCHOR),
    };
    let rate = (RATE_ROOT / (config.hidden as f64).sqrt()).clamp(RATES.0, RATES.1);
    let own = OWN_WORK / config.parameters() as f64 / anchor::TOKENS_MAX as f64;
    // Two digits are all that is known of it.
    let digits = 10f64.powi(1 - rate.log10().floor() as i32);
    Overrides {
        num_layers: i64::try_from(layers).ok(),
        rank: Some(rank),
        alpha: Some(2.0 * rank as f64),
        learning_rate: Some((rate * digits).round() / digits),
        whitening: Some(whitening),
        anchor_batch_size: Some(texts),
        anchor_weight: Some(weight),
        anchor_blocks: Some((own as usize).clamp(OWN_TEXTS.0, OWN_TEXTS.1)),
        max_seq_length: Some(start.max_seq_length.min(config.context)),
        ..Overrides::default()
    }
}

/// The shape of the adapter that a state holds, without the ranks of a global one: a job on top of it has
/// the same.
fn shape(record: &LearnerRecord, config: &Config) -> Overrides {
    let Some(first) = record.shapes.first() else { return Overrides::default() };
    let ranks = record.global.map_or(0, |global| global.ranks);
    let own = first.rank.saturating_sub(ranks);
    let lowest = record.shapes.iter().map(|shape| shape.layer as usize).min().unwrap_or(0);
    let name = |target: &Target| target.name().to_owned();
    let has = |index: usize| record.shapes.iter().any(|shape| usize::from(shape.target) == index);
    let targets = Target::ALL.iter().enumerate().filter(|(index, _)| has(*index));
    Overrides {
        num_layers: i64::try_from(config.layers.saturating_sub(lowest)).ok(),
        rank: Some(own as usize),
        alpha: Some(f64::from(first.scale) * f64::from(own)),
        target_modules: Some(targets.map(|(_, target)| name(target)).collect()),
        ..Overrides::default()
    }
}

/// Multiplications and additions of a step over blocks of `length` tokens: forward and twice that
/// backward for what learns, once more for slow on what is replayed and for the base on its own texts.
fn work(settings: &Settings, config: &Config, length: f64) -> f64 {
    let Config { hidden, ffn, heads, kv_heads, head_dim, layers, vocab, .. } = *config;
    let layer = hidden * (2 * heads + 2 * kv_heads) * head_dim + 3 * hidden * ffn;
    let learning = settings.layers_of(layers).unwrap_or(layers);
    let top = (learning * layer + hidden * vocab) as f64;
    let trunk = ((layers - learning) * layer) as f64;
    let (fresh, old) = (settings.fresh_blocks() as f64, settings.replay_batch_size as f64);
    let is_anchored = settings.own_texts() > 0 && settings.anchor_weight > 0.0;
    let texts = if is_anchored { settings.anchor_batch_size } else { 0 };
    let own = (texts * anchor::TOKENS_MAX.min(settings.max_seq_length)) as f64;
    2.0 * length * ((fresh + old) * (2.0 * top + trunk) + old * learning as f64 * layer as f64)
        + 2.0 * own * 3.0 * top
}

/// What the job will do, in one line.
pub fn line(settings: &Settings, config: &Config, blocks: usize) -> String {
    let layers = settings.layers_of(config.layers).unwrap_or(config.layers);
    let all = settings.target_modules.len() == Target::ALL.len();
    let targets = if all { "all linear".to_owned() } else { settings.target_modules.join(", ") };
    let Settings { rank, learning_rate, iters, retain, batch_size, replay_batch_size, .. } =
        settings;
    let passes = *iters as f64 * f64::from(settings.fresh_blocks()) / blocks.max(1) as f64;
    let mut line = format!(
        "plan: top {layers} of {} layers, {targets}, rank {rank}, rate {learning_rate:.1e}; \
         {iters} steps of {batch_size} new and {replay_batch_size} old blocks, {passes:.1} passes; retain {retain}",
        config.layers
    );
    // Writing to a string cannot fail.
    let mut add = |part: fmt::Arguments<'_>| line.write_fmt(part).unwrap_or_default();
    if settings.matmul_precision == MatmulPrecision::Medium {
        add(format_args!("; products at medium precision"));
    }
    if settings.as_published {
        add(format_args!("; as published"));
    }
    if settings.reptile_steps > 0 {
        add(format_args!("; back towards slow every {} steps", settings.reptile_steps));
    }
    let texts = settings.own_texts();
    if texts > 0 && settings.whitening > 0.0 {
        add(format_args!("; whitening {}", settings.whitening));
    }
    if texts > 0 && settings.anchor_weight > 0.0 {
        add(format_args!("; held to the base on {texts} texts of its own"));
        let of_a_batch = settings.anchor_batch_size;
        if of_a_batch > 1 {
            add(format_args!(", {of_a_batch} a batch"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{Spec, Strength};
    use crate::base::read_config;
    use crate::ports::Memory;
    use crate::state;
    use std::path::Path;
    use std::sync::Arc;

    fn shipped() -> Result<Config, LearnError> {
        Ok(read_config(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base"))?)
    }

    /// The shape of SmolLM2-135M on the shipped base's configuration.
    fn larger() -> Result<Config, LearnError> {
        let (hidden, layers, heads, kv_heads, head_dim) = (576, 30, 9, 3, 64);
        let (ffn, vocab) = (1_536, 49_152);
        let shape = Config { hidden, layers, heads, kv_heads, head_dim, ffn, vocab, ..shipped()? };
        Ok(shape)
    }

    fn planned(config: &Config, wishes: Overrides) -> Result<Plan, LearnError> {
        let state = State::open(Arc::new(Memory::default()))?;
        Plan::new(config, &state, wishes, false)
    }

    #[test]
    fn a_base_gets_what_it_can_learn_with_and_a_wish_wins() -> Result<(), LearnError> {
        let of = |config: &Config, wishes| -> Result<_, LearnError> {
            let Settings { num_layers, rank, alpha, learning_rate, whitening, .. } =
                planned(config, wishes)?.settings;
            Ok((num_layers, rank, alpha, learning_rate, whitening))
        };
        let held = |config: &Config| -> Result<_, LearnError> {
            let Settings { anchor_blocks, anchor_batch_size, anchor_weight, .. } =
                planned(config, Overrides::default())?.settings;
            Ok((anchor_blocks, anchor_batch_size, anchor_weight))
        };
        assert_eq!(held(&shipped()?)?, (512, 1, 0.3));
        assert_eq!(held(&larger()?)?, (92, 3, 6.0));
        assert_eq!(of(&shipped()?, Overrides::default())?, (4, 32, 64.0, 5.2e-3, 30.0));
        assert_eq!(of(&larger()?, Overrides::default())?, (8, 16, 32.0, 3e-3, 0.0));
        let wishes = Overrides { rank: Some(3), num_layers: Some(2), ..Overrides::default() };
        assert_eq!(of(&larger()?, wishes)?, (2, 3, 32.0, 3e-3, 0.0));
        let wrong = Overrides { rank: Some(0), ..Overrides::default() };
        assert!(matches!(planned(&shipped()?, wrong), Err(LearnError::Settings(_))));
        Ok(())
    }

    #[test]
    fn steps_follow_the_data_within_what_minutes_allow() -> Result<(), LearnError> {
        let iters = |config: &Config, blocks: usize, threads| -> Result<u64, LearnError> {
            Ok(planned(config, Overrides::default())?.fit(blocks, blocks * 200, threads).iters)
        };
        assert_eq!(iters(&shipped()?, 10, 2)?, STEPS_MIN);
        assert_eq!(iters(&shipped()?, 300, 2)?, 200);
        assert_eq!(iters(&shipped()?, 100_000, 2)?, STEPS_MAX);
        // 1,600 tokens a step through 28 and 28 million weights three times, and the rest once.
        let (one, two) = (iters(&larger()?, 100_000, 2)?, iters(&larger()?, 100_000, 4)?);
        assert!(STEPS_MIN < two && two < STEPS_MAX && one <= two, "{one} {two}");
        let passes = |passes, blocks| -> Result<u64, LearnError> {
            let plan = planned(&larger()?, Overrides::default())?.passes(Some(passes));
            let fresh = f64::from(plan.settings().fresh_blocks());
            let settings = plan.fit(blocks, blocks * 200, 1);
            assert_eq!(settings.iters, (passes * blocks as f64 / fresh).ceil() as u64);
            Ok(settings.iters)
        };
        assert!(passes(3.0, 100_000)? > STEPS_MAX && passes(0.5, 10)? >= 1);
        let wished = Overrides { iters: Some(7), ..Overrides::default() };
        assert_eq!(planned(&larger()?, wished)?.fit(1_000, 9_000, 1).iters, 7);
        Ok(())
    }

    /// Half of slow is forgotten five times in a job, however long it is.
    #[test]
    fn the_average_reaches_back_over_the_last_fifth_of_a_job() -> Result<(), LearnError> {
        for iters in [40, 100, 333] {
            let wishes = Overrides { iters: Some(iters), ..Overrides::default() };
            let settings = planned(&shipped()?, wishes)?.fit(500, 50_000, 2);
            let left = settings.retain.powf(iters as f64);
            assert!((left - 0.5f64.powi(5)).abs() < 2e-3, "{iters} steps leave {left}");
        }
        let wishes = Overrides { retain: Some(0.5), ..Overrides::default() };
        assert_eq!(planned(&shipped()?, wishes)?.fit(500, 50_000, 2).retain, 0.5);
        let wishes = Overrides { reptile_steps: Some(9), ..Overrides::default() };
        assert_eq!(planned(&shipped()?, wishes.clone())?.fit(500, 50_000, 2).retain, 0.5);
        assert_eq!(for_base(&shipped()?, wishes)?.retain, 0.5);
        Ok(())
    }

    /// Half of slow is 5 and 25 steps old in a larger base's jobs of 89 and 187 steps, a fifth in one of 300.
    #[test]
    fn a_shorter_job_of_a_larger_base_looks_back_over_less() -> Result<(), LearnError> {
        let retain = |iters, reptile_steps| -> Result<f64, LearnError> {
            let wishes = Overrides { iters: Some(iters), reptile_steps, ..Overrides::default() };
            Ok(planned(&larger()?, wishes)?.fit(500, 50_000, 2).retain)
        };
        for (iters, half_life) in [(89, 5.6), (187, 24.8), (300, 60.0), (400, 80.0)] {
            let left = retain(iters, None)?.powf(half_life);
            assert!((left - 0.5).abs() < 5e-3, "{iters} steps: {left}");
        }
        assert_eq!((retain(40, None)?, retain(1, None)?), (0.8, 0.8));
        assert_eq!(retain(40, Some(9))?, 0.5);
        Ok(())
    }

    /// Bytes that were asked for before are no other wish when batches have another size now.
    #[test]
    fn a_reservoir_made_for_these_bytes_stays() -> Result<(), LearnError> {
        let (bytes, room) = (300_000, 128);
        let held = Geometry::for_bytes(bytes, 64, 4_096, None, room)?;
        assert!(fills(&held, bytes) && !fills(&held, 2 * bytes) && !fills(&held, bytes / 2));
        assert_ne!(Geometry::for_bytes(bytes, 64, 4_096, None, room / 2)?.capacity, held.capacity);
        Ok(())
    }

    /// Work without a state gets what a first job gets.
    #[test]
    fn without_a_state_the_base_chooses_too() -> Result<(), LearnError> {
        let wishes = Overrides { iters: Some(50), ..Overrides::default() };
        let first = planned(&shipped()?, wishes.clone())?.fit(500, 50_000, 2);
        assert_eq!(for_base(&shipped()?, wishes)?, first);
        Ok(())
    }

    /// An adapter of any shape goes on in that shape; its spec made again is the same.
    #[test]
    fn a_job_on_top_of_an_adapter_has_its_shape() -> Result<(), LearnError> {
        let config = larger()?;
        let strength = Strength { rank: 8, alpha: 16.0 };
        let targets = [Target::Q, Target::V];
        let old = Spec::uniform(&config, 26..30, &targets, strength);
        let record = LearnerRecord { shapes: state::shapes(&old), ..LearnerRecord::default() };
        let settings = Settings::default().merge(shape(&record, &config).or(by_base(&config)));
        assert_eq!(super::super::spec(&config, &settings)?, old);
        assert_eq!(shape(&LearnerRecord::default(), &config), Overrides::default());
        let global = Some(state::Global { ranks: 5, artifact: [0; 32], sequence: 1, series: None });
        let shapes = state::shapes(&old.over(5));
        let record = LearnerRecord { shapes, global, ..LearnerRecord::default() };
        let settings = Settings::default().merge(shape(&record, &config).or(by_base(&config)));
        assert_eq!(super::super::spec(&config, &settings)?, old, "the own part keeps its shape");
        Ok(())
    }
}
