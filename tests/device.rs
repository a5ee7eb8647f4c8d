//! The step and the trunk on other devices against the CPU, and what a missing device says.
//!
//! Goal: candle's ops on CUDA or Metal give the numbers of the CPU's own kernels. Oracle: those
//! kernels, which `tests/parts/step.rs` holds against PyTorch, and tract for the trunk. candle's ops on the
//! CPU are compared everywhere: it is the code that a GPU runs, so no machine compares nothing.

#[expect(dead_code, reason = "the golden tensors are for other tests")]
mod common;

use common::{Surprise, Within, assert_close, exported};
use ndarray::{Array2, Array3, s};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::{Base, Config};
use sapwood::block::Block;
use sapwood::generate::{Generator, Sampling};
use sapwood::head::{
    Backend, Below, Decoder, Distance, Group, Head, HeadError, Keep, Losses, Objective, Seen,
};
use sapwood::settings::{Device, EmbeddingLayers};
use sapwood::train::{self, AdamW, Batch, Follow, Learners, Rules, Whitening};
use sapwood::trunk::{Trunk, TrunkError};
use std::io::{Write, stderr};
use std::iter;
use std::sync::Once;

const F32: Within = Within {
    relative: 1e-4,
    because: "f32 sums in another order; TF32 keeps 10 bits of a factor and would be off by 1e-3",
};
const LEARNED: Within = Within {
    relative: 1e-3,
    because: "AdamW divides by the gradient's size, so where that is small its error is not",
};
/// Every way from embedding to head that the exporter's fixtures know: biases, GQA ratios, widths.
const FAMILIES: [&str; 7] =
    ["llama2", "llama3", "llama_biased", "qwen2", "qwen3", "smollm2", "head_dim"];
/// Longest sequence of these tests.
const TOKENS_MAX: usize = 24;

/// The CPU, and every other device that this build and this machine have.
fn places() -> Vec<Backend> {
    static TELL: Once = Once::new();
    let opened = [Device::Cuda(0), Device::Metal].map(Backend::open);
    // The harness shows what goes past its own macros even when a test succeeds.
    TELL.call_once(|| {
        for error in opened.iter().filter_map(|place| place.as_ref().err()) {
            let _ = writeln!(stderr(), "not compared: {error}");
        }
    });
    iter::once(Backend::cpu()).chain(opened.into_iter().flatten()).collect()
}

/// The head by the CPU's own kernels.
fn by_hand(base: &Base) -> Result<Head, HeadError> {
    Head::load(base, 0, &Backend::cpu(), TOKENS_MAX, Keep::default())
}

/// The head by candle's ops, its weights as a GPU has them.
fn by_candle(base: &Base, place: &Backend) -> Result<Head, HeadError> {
    Head::load_reference(base, 0, place, TOKENS_MAX)
}

/// Numbers in -0.5..0.5, the same on every machine.
struct Chance(ChaCha8Rng);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn next(&mut self) -> f32 {
        self.0.next_u32() as f32 / u32::MAX as f32 - 0.5
    }

    fn adapters(&mut self, spec: &Spec) -> (Adapter, Adapter) {
        let fast: Vec<f32> = (0..spec.len()).map(|_| 0.5 * self.next()).collect();
        let slow = fast.iter().map(|value| value + 0.1 * self.next()).collect();
        let spec = spec.clone();
        (Adapter { spec: spec.clone(), values: fast }, Adapter { spec, values: slow })
    }

    /// `count` blocks of `longest` tokens and fewer, one label in three masked.
    fn group(&mut self, config: &Config, count: usize, longest: usize) -> Owned {
        let hidden = Array3::from_shape_fn((count, longest, config.hidden), |_| self.next());
        let block = |row: usize| {
            let length = longest.saturating_sub(row).max(2);
            let token = |i: usize| ((i * 31 + row * 17) % config.vocab) as u32;
            let learn = (0..length).map(|i| i > 0 && !(i + row).is_multiple_of(3)).collect();
            Block { tokens: (0..length).map(token).collect(), learn, bytes: 1, domain: 0 }
        };
        Owned { blocks: (0..count).map(block).collect(), hidden }
    }
}

/// Blocks and hidden states of one group.
struct Owned {
    blocks: Vec<Block>,
    hidden: Array3<f32>,
}

/// Losses as numbers that can be compared; a part that is missing is missing on both sides.
fn parts(losses: &Losses) -> Vec<f32> {
    let optional = [losses.replay, losses.embedding].into_iter().flatten();
    [losses.fresh, losses.total].into_iter().chain(optional).collect()
}

#[test]
fn losses_and_gradients_of_every_target_equal_those_of_the_cpus_kernels() -> Result<(), Surprise> {
    let mut wanted: Vec<&[Target]> = Target::ALL.chunks(1).collect();
    wanted.push(&Target::ALL);
    let shapes = [((1, 2), (1, 3)), ((3, 7), (2, 5)), ((2, 13), (1, 23))];
    let layers = [EmbeddingLayers::Last, EmbeddingLayers::All];
    for family in FAMILIES {
        let (_folder, base) = exported(&format!("families/{family}"))?;
        let config = base.config();
        let by_hand = by_hand(&base)?;
        for place in places() {
            let other = by_candle(&base, &place)?;
            let mut chance = Chance::new(7);
            for (index, (targets, (fresh, replay))) in
                wanted.iter().flat_map(|targets| shapes.map(|shape| (targets, shape))).enumerate()
            {
                // Rank 1 makes matrices of one row and one column, which GEMMs treat apart.
                let strength = Strength { rank: 1 + index % 3, alpha: 5.0 };
                let spec = Spec::uniform(config, index % 2..config.layers, targets, strength);
                let (fast, slow) = chance.adapters(&spec);
                let fresh = chance.group(config, fresh.0, fresh.1);
                let replay = chance.group(config, replay.0, replay.1);
                let (fresh_blocks, replay_blocks): (Vec<_>, Vec<_>) =
                    (fresh.blocks.iter().collect(), replay.blocks.iter().collect());
                let fresh = Group { blocks: &fresh_blocks, hidden: &fresh.hidden };
                let replay = Group { blocks: &replay_blocks, hidden: &replay.hidden };
                let layers = layers[index % 2];
                let distance = match index % 3 {
                    0 => Distance::OneSided,
                    _ => Distance::Relative,
                };
                let objective = Objective { gamma: 0.7, layers, distance };
                let both = [&by_hand, &other].map(|head| {
                    let replay = Some((&replay, &slow));
                    head.gradient(&fast, &fresh, replay, &objective)
                });
                let [expected, got] = both;
                let (expected, got) = (expected?, got?);
                let what = |part| format!("{part}, {family} on {}, {targets:?}", place.name());
                assert_close(&what("losses"), &parts(&got.losses), &parts(&expected.losses), &F32);
                assert_close(&what("gradient"), &got.values, &expected.values, &F32);
                assert_close(&what("blocks"), &got.of_blocks, &expected.of_blocks, &F32);
                let nats = |head: &Head| -> Result<Vec<f32>, Surprise> {
                    Ok(head.nats(Some(&fast), &fresh)?.iter().map(|&nats| nats as f32).collect())
                };
                assert_close(&what("nats"), &nats(&other)?, &nats(&by_hand)?, &F32);
            }
        }
    }
    Ok(())
}

#[test]
fn five_steps_end_where_those_of_the_cpus_kernels_end() -> Result<(), Surprise> {
    let (_folder, base) = exported("families/smollm2")?;
    let config = base.config();
    let strength = Strength { rank: 4, alpha: 8.0 };
    let spec = Spec::uniform(config, 0..config.layers, &Target::ALL, strength);
    let objective =
        Objective { gamma: 0.5, layers: EmbeddingLayers::Last, distance: Distance::Relative };
    let rules = Rules {
        objective,
        anchor_weight: 0.7,
        whitening: None,
        adamw: AdamW::default(),
        max_grad_norm: 1.0,
        retain: 0.9,
        follow: Follow::Always,
        still: 0,
    };
    let learn = |head: &Head| -> Result<(Vec<f32>, Learners), Surprise> {
        let mut chance = Chance::new(11);
        let mut learners = Learners::new(chance.adapters(&spec).0);
        let (text, mut seen) = (chance.group(config, 3, 9), Seen::new(&spec));
        let blocks: Vec<&Block> = text.blocks.iter().collect();
        head.see(&Group { blocks: &blocks, hidden: &text.hidden }, None, &mut seen)?;
        let whitening = Whitening::new(&spec, &seen, 30.0);
        learners.whiten(&whitening, 0);
        let rules = Rules { whitening: Some(&whitening), ..rules };
        let mut losses = Vec::new();
        for _ in 0..5 {
            let groups = [(3, 9), (2, 11), (2, 7)].map(|(b, t)| chance.group(config, b, t));
            let blocks = groups.each_ref().map(|group| group.blocks.iter().collect::<Vec<_>>());
            let group = |i: usize| Group { blocks: &blocks[i], hidden: &groups[i].hidden };
            let (fresh, replay, anchor) = (group(0), Some(group(1)), Some(group(2)));
            let batch = Batch { fresh, replay, anchor };
            let step = train::step(head, &mut learners, &[batch], &rules, 1e-2)?;
            losses.extend([step.losses.total, step.gradient_norm]);
        }
        Ok((losses, learners))
    };
    let (losses, expected) = learn(&by_hand(&base)?)?;
    for place in places() {
        let (got, learners) = learn(&by_candle(&base, &place)?)?;
        let what = |part| format!("{part} on {}", place.name());
        assert_close(&what("losses"), &got, &losses, &LEARNED);
        assert_close(&what("fast"), &learners.fast.values, &expected.fast.values, &LEARNED);
        assert_close(&what("slow"), &learners.slow.values, &expected.slow.values, &LEARNED);
    }
    Ok(())
}

fn ids(config: &Config, batch: usize, length: usize) -> Array2<u32> {
    Array2::from_shape_fn((batch, length), |(row, t)| {
        ((row * 7 + t * 13 + 3) % config.vocab) as u32
    })
}

/// A trunk whose layers below `tap` are the first `layers` of the base, on a device.
fn continued(base: &Base, tap: usize, layers: usize, place: &Backend) -> Result<Trunk, TrunkError> {
    let below = Below::load(base, layers, place, TOKENS_MAX);
    let below = below.map_err(|error| TrunkError::Device { what: error.to_string() })?;
    let layers = move |embedded: &Array3<f32>| Ok(below.hidden(embedded)?);
    Trunk::load_continued(base, tap, 1, Box::new(layers))
}

#[test]
fn the_trunks_layers_give_the_hidden_states_of_tract() -> Result<(), Surprise> {
    for family in FAMILIES {
        let (_folder, base) = exported(&format!("families/{family}"))?;
        let tap = base.config().layers;
        let tract = Trunk::load(&base, tap, 1)?;
        for place in places() {
            let other = continued(&base, tap, tap, &place)?;
            for (batch, length) in [(1, 1), (1, 2), (2, 3), (3, 17), (1, 24)] {
                let ids = ids(base.config(), batch, length);
                let (got, expected) = (other.hidden(&ids)?, tract.hidden(&ids)?);
                let what = format!("{family} on {}, {batch} x {length}", place.name());
                let numbers = |hidden: &Array3<f32>| hidden.iter().copied().collect::<Vec<_>>();
                assert_close(&what, &numbers(&got), &numbers(&expected), &F32);
            }
        }
    }
    Ok(())
}

#[test]
fn a_trunk_with_a_layer_too_few_is_refused() -> Result<(), Surprise> {
    let (_folder, base) = exported("families/smollm2")?;
    for place in places() {
        let refused = continued(&base, 2, 1, &place);
        assert!(matches!(refused, Err(TrunkError::Differs { .. })), "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_sequence_longer_than_the_devices_tables_is_refused() -> Result<(), Surprise> {
    let (_folder, base) = exported("families/smollm2")?;
    let below = Below::load(&base, 1, &Backend::cpu(), 4)?;
    let embedded = Array3::zeros((1, 5, base.config().hidden));
    assert!(below.hidden(&embedded).is_err());
    Ok(())
}

#[test]
fn text_is_generated_from_the_same_logits() -> Result<(), Surprise> {
    let (_folder, base) = exported("families/smollm2")?;
    let config = base.config();
    let spec = Spec::uniform(config, 1..2, &[Target::Q], Strength { rank: 2, alpha: 4.0 });
    let (adapter, _) = Chance::new(3).adapters(&spec);
    let ids = ids(config, 1, 9);
    let ids = ids.as_slice().ok_or("contiguous")?;
    let (trunk, head) =
        (Trunk::load(&base, 1, 1)?, Head::load(&base, 1, &Backend::cpu(), 2, Keep::default())?);
    let by_hand = Decoder::new(&trunk, None, &head);
    for place in places() {
        let below = Below::load(&base, 1, &place, TOKENS_MAX)?;
        let head = Head::load_reference(&base, 1, &place, 2)?;
        let continued = continued(&base, 1, 1, &place)?;
        let other = Decoder::new(&continued, Some(&below), &head);
        // Without an adapter no layer has factors; with this one, some have and some have not.
        for adapter in [None, Some(&adapter)] {
            let mut sessions = [by_hand.session(adapter, 9)?, other.session(adapter, 9)?];
            for (from, to) in [(0, 5), (5, 6), (6, 9)] {
                let embedded = trunk.embedded(&ids[from..to])?;
                let mut logits = [by_hand, other].into_iter().zip(&mut sessions);
                let mut next = || -> Result<Vec<f32>, Surprise> {
                    let (decoder, session) = logits.next().ok_or("two")?;
                    decoder.extend(session, &embedded)?;
                    Ok(decoder.logits(session)?)
                };
                let (expected, got) = (next()?, next()?);
                assert_close(&format!("logits on {}", place.name()), &got, &expected, &F32);
            }
        }
    }
    Ok(())
}

/// Each text of a session has its own tokens, its own past, and what it would have alone.
#[test]
fn texts_abreast_are_those_that_are_written_alone() -> Result<(), Surprise> {
    let (_folder, base) = exported("families/smollm2")?;
    let trunk = Trunk::load(&base, 1, 1)?;
    let by_hand = Head::load(&base, 1, &Backend::cpu(), 2, Keep::default())?;
    let alone = Decoder::new(&trunk, None, &by_hand);
    let refused = |texts| alone.session_of(texts, None, 4).err().map(|error| error.to_string());
    assert_eq!(refused(33), Some("a session of 33 texts, expected 1 to 32".into()));
    assert!(refused(0).is_some() && refused(32).is_none());
    abreast_as_alone("the CPU's kernels", &base, alone, (&trunk, alone))?;
    written_as_alone("the CPU's kernels", &Generator::new(&trunk, None, &by_hand))?;
    for place in places() {
        let below = Below::load(&base, 1, &place, TOKENS_MAX)?;
        let head = Head::load_reference(&base, 1, &place, 2)?;
        let continued = continued(&base, 1, 1, &place)?;
        let abreast = Decoder::new(&continued, Some(&below), &head);
        abreast_as_alone(&place.name(), &base, abreast, (&trunk, alone))?;
        written_as_alone(&place.name(), &Generator::new(&continued, Some(&below), &head))?;
    }
    Ok(())
}

/// Of as many texts and tokens as do not go through the CPU's layers at once.
fn abreast_as_alone(
    name: &str,
    base: &Base,
    abreast: Decoder<'_>,
    (trunk, alone): (&Trunk, Decoder<'_>),
) -> Result<(), Surprise> {
    let spec = Spec::uniform(base.config(), 1..2, &[Target::Q], Strength { rank: 2, alpha: 4.0 });
    let (adapter, _) = Chance::new(3).adapters(&spec);
    let all = ids(base.config(), 16, 22);
    for adapter in [None, Some(&adapter)] {
        let mut together = abreast.session_of(16, adapter, 22)?;
        let mut each =
            (0..16).map(|_| alone.session(adapter, 22)).collect::<Result<Vec<_>, _>>()?;
        for (from, to) in [(0, 19), (19, 20), (20, 22)] {
            let rows = |row: usize| all.slice(s![row, from..to]).to_vec();
            let tokens = (0..16).flat_map(rows).collect::<Vec<_>>();
            abreast.extend(&mut together, &trunk.embedded(&tokens)?)?;
            let mut expected = Vec::new();
            for (row, session) in each.iter_mut().enumerate() {
                alone.extend(session, &trunk.embedded(&rows(row))?)?;
                expected.extend(alone.logits(session)?);
            }
            let got = abreast.logits(&together)?;
            assert_close(&format!("logits on {name}"), &got, &expected, &F32);
        }
    }
    Ok(())
}

/// Some end before the others, and these go on as if they had always been alone.
fn written_as_alone(name: &str, generator: &Generator<'_>) -> Result<(), Surprise> {
    let samplings: Vec<_> = (0..40)
        .map(|seed| Sampling { temperature: 1.0, top_p: 1.0, seed, ..Sampling::default() })
        .collect();
    let mut written = Vec::new();
    for some in samplings.chunks(generator.abreast(40)) {
        let mut texts = generator.several(&[1, 2], 6, None, some)?;
        while texts.next_tokens()? {}
        assert!(!texts.next_tokens()?, "it stays at its end");
        written.extend(texts.into_ids());
    }
    let ended = written.iter().filter(|text| text.len() < 6).count();
    assert!((1..40).contains(&ended), "{ended} of 40 end before the others");
    for (sampling, text) in samplings.iter().zip(&written) {
        let mut one = generator.start(&[1, 2], 6, None, *sampling)?;
        let mut ids = Vec::new();
        while let Some(id) = one.next_token()? {
            ids.push(id);
        }
        assert_eq!(*text, ids, "seed {} on {name}", sampling.seed);
    }
    Ok(())
}

#[test]
fn a_device_that_is_not_there_is_refused_by_name() -> Result<(), Surprise> {
    for choice in [Device::Cuda(0), Device::Cuda(4096), Device::Metal] {
        match Backend::open(choice) {
            Ok(place) => writeln!(stderr(), "{} is there", place.name())?,
            Err(error) => {
                let told = error.to_string();
                assert!(told.starts_with(&format!("device {choice}: ")), "{told}");
                assert!(told.ends_with("; use --device cpu"), "{told}");
                assert_eq!(told.lines().count(), 1, "{told}");
            }
        }
    }
    assert!(Backend::open(Device::Cuda(4096)).is_err(), "no machine has so many");
    Ok(())
}

#[test]
fn auto_falls_back_to_the_cpu_and_tells_of_a_device_that_was_built_in() -> Result<(), Surprise> {
    let place = Backend::open(Device::Auto)?;
    if place.is_cpu() {
        let built_in = cfg!(feature = "cuda") || cfg!(feature = "metal");
        assert_eq!(place.notice().is_some(), built_in, "{:?}", place.notice());
    } else {
        assert_eq!(place.notice(), None);
    }
    Ok(())
}
