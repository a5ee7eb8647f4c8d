//! The step against PyTorch and PEFT: gradients, one whole I-LoRA step, twenty of them, AdamW.
//!
//! Oracle: `tools/golden/step.py` (torch 2.15, peft 0.21, f32, seeds in the script).

mod beside;

use crate::common::{Golden, Surprise, Within, assert_close, exported};
use ndarray::{Array3, Axis};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::{Base, Config};
use sapwood::block::Block;
use sapwood::head::{Backend, Distance, Gradient, Group, Head, Keep, Objective, Seen};
use sapwood::settings::{Activations, EmbeddingLayers, HeadWeights, MatmulPrecision};
use sapwood::train::{self, AdamW, Batch, Follow, Learners, Moments, Rules, Whitening};

const F32: Within = Within {
    relative: 1e-4,
    because: "f32 sums in another order; the oracle's own f32 is within 1.5e-6 of its f64",
};
const MOVES: Within = Within {
    relative: 2e-3,
    because: "AdamW's first steps are signs of gradients, and what is nearly zero may have either",
};
/// The engines of a head: both must give the oracle's numbers.
#[derive(Clone, Copy, Debug)]
enum Engine {
    /// The CPU's kernels, the gradient by hand.
    Cpu,
    /// candle's ops and autograd.
    Candle,
}

const ENGINES: [Engine; 2] = [Engine::Cpu, Engine::Candle];

impl Engine {
    fn load(self, base: &Base, tap: usize, tokens_max: usize) -> Result<Head, Surprise> {
        let cpu = Backend::cpu();
        Ok(match self {
            Self::Cpu => Head::load(base, tap, &cpu, tokens_max, Keep::default())?,
            Self::Candle => Head::load_reference(base, tap, &cpu, tokens_max)?,
        })
    }
}

fn spec(base: &Base) -> Spec {
    Spec::uniform(base.config(), 1..3, &Target::ALL, Strength { rank: 4, alpha: 8.0 })
}

/// The adapter whose tensors begin with `prefix`.
fn adapter(golden: &Golden, spec: &Spec, prefix: &str) -> Result<Adapter, Surprise> {
    let mut values = vec![0.0; spec.len()];
    for module in &spec.modules {
        let name = format!("{prefix}.model.layers.{}.{}", module.layer, module.target.module());
        values[module.a.clone()].copy_from_slice(&golden.f32(&format!("{name}.lora_A"))?);
        values[module.b.clone()].copy_from_slice(&golden.f32(&format!("{name}.lora_B"))?);
    }
    Ok(Adapter { spec: spec.clone(), values })
}

/// Blocks and hidden states of one group; `step` picks one of a trajectory.
struct Owned {
    blocks: Vec<Block>,
    hidden: Array3<f32>,
}

impl Owned {
    fn load(golden: &Golden, prefix: &str, step: usize) -> Result<Self, Surprise> {
        let shape = golden.shape(&format!("{prefix}hidden_tap"))?;
        let [b, t, d] = shape[shape.len() - 3..] else { return Err("shape".into()) };
        let (ids, labels) =
            (golden.i64(&format!("{prefix}input_ids"))?, golden.i64(&format!("{prefix}labels"))?);
        let lengths = golden.i64(&format!("{prefix}lengths"))?;
        let hidden = golden.f32(&format!("{prefix}hidden_tap"))?;
        let blocks = (0..b).map(|row| {
            let at = (step * b + row) * t;
            let length = lengths[step * b + row] as usize;
            Block {
                tokens: ids[at..at + length].iter().map(|&id| id as u32).collect(),
                learn: (0..length).map(|i| i > 0 && labels[at + i] >= 0).collect(),
                bytes: 0,
                domain: 0,
            }
        });
        let numbers = hidden[step * b * t * d..(step + 1) * b * t * d].to_vec();
        Ok(Self { blocks: blocks.collect(), hidden: Array3::from_shape_vec((b, t, d), numbers)? })
    }

    fn blocks(&self) -> Vec<&Block> {
        self.blocks.iter().collect()
    }
}

fn objective(gamma: f32, layers: EmbeddingLayers) -> Objective {
    Objective { gamma, layers, distance: Distance::Relative }
}

#[test]
fn lora_gradients_of_every_target_equal_those_of_torch() -> Result<(), Surprise> {
    for name in ["step", "families/qwen3", "families/llama_biased"] {
        lora_gradients(name)?;
    }
    Ok(())
}

/// The gradients of one base: `name` has them, and the base itself or in `base`.
fn lora_gradients(name: &str) -> Result<(), Surprise> {
    let place = if name == "step" { "step/base" } else { name };
    let (_place, base) = exported(place)?;
    let golden = Golden::load(&format!("{name}/gradients"))?;
    let fast = adapter(&golden, &spec(&base), "parameter")?;
    let expected = adapter(&golden, &spec(&base), "gradient")?;
    let owned = Owned::load(&golden, "", 0)?;
    let lean = Keep { activations: Activations::Recompute, ..Keep::default() };
    let lean = Head::load(&base, 1, &Backend::cpu(), 12, lean)?;
    let [by_hand, by_candle] = ENGINES.map(|engine| engine.load(&base, 1, 12));
    for (engine, head) in [("by hand", by_hand?), ("again", lean), ("candle", by_candle?)] {
        let group = Group { blocks: &owned.blocks(), hidden: &owned.hidden };
        let objective = objective(0.0, EmbeddingLayers::Last);
        let Gradient { losses, values: gradient, .. } =
            head.gradient(&fast, &group, None, &objective)?;
        assert_close("loss", &[losses.total], &golden.f32("loss")?, &F32);
        for module in &expected.spec.modules {
            let target = module.target.module();
            let what = format!("{name} {engine} layer {} {target}", module.layer);
            for range in [module.a.clone(), module.b.clone()] {
                assert_close(&what, &gradient[range.clone()], &expected.values[range], &F32);
            }
        }
    }
    Ok(())
}

/// Goal: the second tile of attention (more than 64 tokens) and the second chunk of logits (more than
/// 256 labelled rows, or 128) are as right as the first, forward and backward.
#[test]
fn long_blocks_give_the_losses_and_gradients_of_torch() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/long")?;
    let fast = adapter(&golden, &spec(&base), "parameter")?;
    let owned = Owned::load(&golden, "", 0)?;
    assert!(owned.blocks.iter().all(|block| block.tokens.len() > 64));
    let labels = owned.blocks.iter().flat_map(|block| &block.learn).filter(|learn| **learn);
    assert!(labels.count() > 256);
    let [slopes, anchored] =
        ["gradient", "anchor"].map(|name| adapter(&golden, &spec(&base), name));
    let (slopes, anchored) = (slopes?, anchored?);
    let group = Group { blocks: &owned.blocks(), hidden: &owned.hidden };
    let tokens = owned.hidden.dim().1;
    let lean = Keep { activations: Activations::Recompute, ..Keep::default() };
    let lean = Head::load(&base, 1, &Backend::cpu(), tokens, lean)?;
    let [by_hand, by_candle] = ENGINES.map(|engine| engine.load(&base, 1, tokens));
    for head in [by_hand?, lean, by_candle?] {
        let objective = objective(0.0, EmbeddingLayers::Last);
        let found = head.gradient(&fast, &group, None, &objective)?;
        assert_close("loss", &[found.losses.total], &golden.f32("loss")?, &F32);
        assert_close("gradient", &found.values, &slopes.values, &F32);
        let (apart, found) = head.anchor(&fast, &group, 1.0)?;
        assert_close("divergence", &[apart], &golden.f32("divergence")?, &F32);
        assert_close("its gradient", &found, &anchored.values, &F32);
    }
    Ok(())
}

#[test]
fn the_divergence_from_the_base_and_its_gradient_equal_those_of_torch() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/anchor")?;
    let fast = adapter(&golden, &spec(&base), "parameter")?;
    let expected = adapter(&golden, &spec(&base), "gradient")?;
    let owned = Owned::load(&golden, "", 0)?;
    for engine in ENGINES {
        let group = Group { blocks: &owned.blocks(), hidden: &owned.hidden };
        let (apart, gradient) = engine.load(&base, 1, 12)?.anchor(&fast, &group, 1.0)?;
        assert_close("divergence", &[apart], &golden.f32("divergence")?, &F32);
        assert_close("gradient", &gradient, &expected.values, &F32);
        let (_, half) = engine.load(&base, 1, 12)?.anchor(&fast, &group, 0.5)?;
        let half: Vec<f32> = half.iter().map(|slope| 2.0 * slope).collect();
        assert_close("half of it", &half, &expected.values, &F32);
    }
    Ok(())
}

/// The moments are seen by both kinds of kernels, the root is of our own, the moves are AdamW's.
#[test]
fn whitened_steps_equal_those_of_torch_in_whitened_inputs() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/whitening")?;
    let spec = spec(&base);
    let text = Owned::load(&golden, "text.", 0)?;
    for engine in ENGINES {
        let head = engine.load(&base, 1, 12)?;
        let mut seen = Seen::new(&spec);
        head.see(&Group { blocks: &text.blocks(), hidden: &text.hidden }, None, &mut seen)?;
        let whitening = Whitening::new(&spec, &seen, 30.0);
        let mut learners = Learners::new(adapter(&golden, &spec, "parameter")?);
        learners.whiten(&whitening, 0);
        let begun = adapter(&golden, &spec, "begun")?;
        assert_close("begun", &learners.fast.values, &begun.values, &F32);
        assert_eq!(learners.slow, learners.fast);
        let mut rules = rules(EmbeddingLayers::Last);
        rules.whitening = Some(&whitening);
        for k in 1..=3 {
            let owned = Owned::load(&golden, &format!("fresh{k}."), 0)?;
            let fresh = Group { blocks: &owned.blocks(), hidden: &owned.hidden };
            let batch = Batch { fresh, replay: None, anchor: None };
            train::step(&head, &mut learners, &[batch], &rules, 1e-3)?;
        }
        let after = adapter(&golden, &spec, "after")?;
        assert_close("after", &learners.fast.values, &after.values, &F32);
        let moved = |to: &Adapter| -> Vec<f32> {
            to.values.iter().zip(&begun.values).map(|(to, from)| to - from).collect()
        };
        assert_close("moves", &moved(&learners.fast), &moved(&after), &MOVES);
    }
    Ok(())
}

#[test]
fn the_logits_of_an_adapted_head_equal_those_of_peft() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/gradients")?;
    let fast = adapter(&golden, &spec(&base), "parameter")?;
    let owned = Owned::load(&golden, "", 0)?;
    for engine in ENGINES {
        let logits = engine.load(&base, 1, 12)?.logits(Some(&fast), &owned.hidden)?;
        let expected = golden.f32("logits")?;
        let row_len = owned.hidden.dim().1 * base.config().vocab;
        // Past its end a sequence has no meaning: the oracle masks padding, the head ignores it.
        for (row, block) in owned.blocks.iter().enumerate() {
            let real = row * row_len..row * row_len + block.tokens.len() * base.config().vocab;
            let got = logits.as_slice().ok_or("contiguous")?;
            assert_close("logits", &got[real.clone()], &expected[real], &F32);
        }
    }
    Ok(())
}

fn rules(layers: EmbeddingLayers) -> Rules<'static> {
    Rules {
        objective: objective(0.5, layers),
        anchor_weight: 0.0,
        whitening: None,
        adamw: AdamW::default(),
        max_grad_norm: 1.0,
        retain: 0.99,
        follow: Follow::Always,
        still: 0,
    }
}

#[test]
fn one_ilora_step_equals_that_of_torch() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/ilora_step")?;
    let spec = spec(&base);
    let fresh = Owned::load(&golden, "fresh.", 0)?;
    let replay = Owned::load(&golden, "replay.", 0)?;
    let batch = Batch {
        fresh: Group { blocks: &fresh.blocks(), hidden: &fresh.hidden },
        replay: Some(Group { blocks: &replay.blocks(), hidden: &replay.hidden }),
        anchor: None,
    };
    let variants = [("last", EmbeddingLayers::Last), ("all", EmbeddingLayers::All)];
    for ((name, layers), engine) in variants.into_iter().flat_map(|v| ENGINES.map(|k| (v, k))) {
        let start = adapter(&golden, &spec, "fast_before")?;
        let moments = Moments::zeros(spec.len());
        let slow = adapter(&golden, &spec, "slow_before")?;
        let mut learners = Learners { fast: start, slow, moments, k: 0 };
        let head = engine.load(&base, 1, 12)?;
        let step = train::step(&head, &mut learners, &[batch], &rules(layers), 1e-3)?;
        let parts = [
            ("ce_fresh", Some(step.losses.fresh)),
            ("ce_replay", step.losses.replay),
            ("distance", step.losses.embedding),
            ("total", Some(step.losses.total)),
            ("gradient_norm", Some(step.gradient_norm)),
        ];
        for (part, got) in parts {
            let got = got.ok_or("a part of the loss is missing")?;
            assert_close(part, &[got], &golden.f32(&format!("{name}.{part}"))?, &F32);
        }
        let fast = adapter(&golden, &spec, &format!("{name}.fast_after"))?;
        let slow = adapter(&golden, &spec, &format!("{name}.slow_after"))?;
        assert_close("fast", &learners.fast.values, &fast.values, &F32);
        assert_close("slow", &learners.slow.values, &slow.values, &F32);
    }
    Ok(())
}

#[test]
fn twenty_steps_follow_the_losses_of_torch() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/trajectory")?;
    let spec = spec(&base);
    for engine in ENGINES {
        let start = adapter(&golden, &spec, "start")?;
        let slow = adapter(&golden, &spec, "start")?;
        let moments = Moments::zeros(spec.len());
        let mut learners = Learners { fast: start, slow, moments, k: 0 };
        let head = engine.load(&base, 1, 12)?;
        let mut losses = [const { Vec::new() }; 4];
        for k in 0..20 {
            let fresh = Owned::load(&golden, "fresh.", k)?;
            let replay = Owned::load(&golden, "replay.", k)?;
            let batch = Batch {
                fresh: Group { blocks: &fresh.blocks(), hidden: &fresh.hidden },
                replay: Some(Group { blocks: &replay.blocks(), hidden: &replay.hidden }),
                anchor: None,
            };
            let rate = 1e-2 * ((k + 1) as f32 / 5.0).min(1.0);
            let rules = rules(EmbeddingLayers::Last);
            let step = train::step(&head, &mut learners, &[batch], &rules, rate)?;
            let parts = [
                step.losses.fresh,
                step.losses.replay.unwrap_or(f32::NAN),
                step.losses.embedding.unwrap_or(f32::NAN),
                step.losses.total,
            ];
            losses.iter_mut().zip(parts).for_each(|(losses, part)| losses.push(part));
        }
        for (name, losses) in ["ce_fresh", "ce_replay", "distance", "total"].iter().zip(&losses) {
            assert_close(name, losses, &golden.f32(name)?, &F32);
        }
        let fast = adapter(&golden, &spec, "fast_end")?;
        let slow = adapter(&golden, &spec, "slow_end")?;
        assert_close("fast", &learners.fast.values, &fast.values, &F32);
        assert_close("slow", &learners.slow.values, &slow.values, &F32);
    }
    Ok(())
}

#[test]
fn ten_adamw_steps_equal_those_of_torch() -> Result<(), Surprise> {
    let golden = Golden::load("step/adamw")?;
    for name in ["a", "b"] {
        let mut values = golden.f32(&format!("start.{name}"))?;
        let gradients = golden.f32(&format!("gradient.{name}"))?;
        let after = golden.f32(&format!("after.{name}"))?;
        let (len, mut moments) = (values.len(), Moments::zeros(values.len()));
        for k in 0..10 {
            let span = k * len..(k + 1) * len;
            let mut gradient = gradients[span.clone()].to_vec();
            AdamW::default().step(&mut values, &mut gradient, &mut moments, k as u64 + 1, 3e-3);
            let within = Within { relative: 1e-6, because: "f32, the same formula" };
            assert_close("values", &values, &after[span], &within);
        }
        let within = Within { relative: 1e-6, because: "f32, the same formula" };
        assert_close("m", &moments.first, &golden.f32(&format!("m.{name}"))?, &within);
        assert_close("v", &moments.second, &golden.f32(&format!("v.{name}"))?, &within);
    }
    Ok(())
}

/// A batch that no golden file has: random adapters, hidden states, lengths and masks.
struct Case {
    fast: Adapter,
    slow: Adapter,
    hidden: Array3<f32>,
    blocks: Vec<Block>,
}

impl Case {
    /// B blocks of up to T tokens; layers from `first` on learn.
    fn new(config: &Config, (b, t, first): (usize, usize, usize)) -> Self {
        let mut chance = <rand_chacha::ChaCha8Rng as rand_core::SeedableRng>::seed_from_u64(7);
        let mut random =
            move || rand_core::Rng::next_u32(&mut chance) as f32 / u32::MAX as f32 - 0.5;
        let strength = Strength { rank: 3, alpha: 5.0 };
        let spec = Spec::uniform(config, first..config.layers, &Target::ALL, strength);
        let values = (0..spec.len()).map(|_| random()).collect();
        let fast = Adapter { spec: spec.clone(), values };
        let values = fast.values.iter().map(|value| value + 0.1 * random()).collect();
        let slow = Adapter { spec, values };
        let hidden = Array3::from_shape_fn((b, t, config.hidden), |_| random());
        let blocks = (0..b).map(|row| {
            let length = (t - row).max(2);
            let token = |i: usize| ((i * 31 + row * 17) % config.vocab) as u32;
            let learn = (0..length).map(|i| i > 0 && (i + row) % 3 != 0).collect();
            Block { tokens: (0..length).map(token).collect(), learn, bytes: 1, domain: 0 }
        });
        Self { fast, slow, hidden, blocks: blocks.collect() }
    }

    /// Losses and gradient, and the nats of every block.
    fn run(&self, head: &Head) -> Result<(f32, Vec<f32>, Vec<f32>), Surprise> {
        let blocks: Vec<&Block> = self.blocks.iter().collect();
        let group = Group { blocks: &blocks, hidden: &self.hidden };
        // Relative to such short hidden states 0.05 is what 10 is in a job: a small part of the loss.
        let objective = objective(0.05, EmbeddingLayers::All);
        let replay = Some((&group, &self.slow));
        let found = head.gradient(&self.fast, &group, replay, &objective)?;
        let nats = head.nats(Some(&self.fast), &group)?;
        Ok((found.losses.total, found.values, nats.iter().map(|&nats| nats as f32).collect()))
    }
}

/// Goal: the CPU's layer equals candle's ops over shapes that no golden file has.
#[test]
fn both_engines_agree_on_odd_shapes_and_masks() -> Result<(), Surprise> {
    for family in ["llama2", "llama3", "qwen2", "smollm2", "head_dim"] {
        let (_place, base) = exported(&format!("families/{family}"))?;
        for shape in [(1, 2, 1), (3, 7, 2), (2, 23, 1)] {
            let case = Case::new(base.config(), shape);
            let (loss, gradient, nats) = case.run(&Engine::Cpu.load(&base, 0, 24)?)?;
            let plain = Engine::Candle.load(&base, 0, 24)?;
            let (plain_loss, plain_gradient, plain_nats) = case.run(&plain)?;
            assert_close("loss", &[loss], &[plain_loss], &F32);
            assert_close("gradient", &gradient, &plain_gradient, &F32);
            assert_close("nats", &nats, &plain_nats, &F32);
        }
    }
    Ok(())
}

impl Case {
    /// Losses and gradient of the first `fresh` blocks as new ones and the others as replayed ones.
    fn split(&self, head: &Head, fresh: usize) -> Result<Gradient, Surprise> {
        let blocks: Vec<&Block> = self.blocks.iter().collect();
        let (new, old) = self.hidden.view().split_at(Axis(0), fresh);
        let (new, old) = (new.to_owned(), old.to_owned());
        let fresh_group = Group { blocks: &blocks[..fresh], hidden: &new };
        let replay = Group { blocks: &blocks[fresh..], hidden: &old };
        let objective = objective(0.7, EmbeddingLayers::Last);
        Ok(head.gradient(&self.fast, &fresh_group, Some((&replay, &self.slow)), &objective)?)
    }
}

/// Goal: a replayed block weighs as much as a fresh one, so that their numbers make the mix.
/// Oracle: candle's autograd, and the parts' sum by hand.
#[test]
fn each_group_weighs_by_its_blocks() -> Result<(), Surprise> {
    let (_place, base) = exported("families/llama2")?;
    let case = Case::new(base.config(), (4, 9, 1));
    let mut found = Vec::new();
    for engine in ENGINES {
        let head = engine.load(&base, 0, 24)?;
        for (fresh, share) in [(3, 0.75), (1, 0.25), (2, 0.5)] {
            let got = case.split(&head, fresh)?;
            let replay = got.losses.replay.ok_or("nothing was replayed")?;
            let distance = got.losses.embedding.ok_or("nothing was compared")?;
            let by_hand = share * got.losses.fresh + (1.0 - share) * replay + 0.7 * distance;
            assert_close("total", &[got.losses.total], &[by_hand], &F32);
            assert!((got.losses.fresh - replay).abs() > 0.01, "a share would not show");
            found.push(got);
        }
    }
    let (by_hand, by_candle) = found.split_at(3);
    for (got, expected) in by_hand.iter().zip(by_candle) {
        assert_close("gradient", &got.values, &expected.values, &F32);
        assert_close("blocks", &got.of_blocks, &expected.of_blocks, &F32);
    }
    Ok(())
}

/// The root mean square of the differences over that of what was expected.
fn error(got: &[f32], expected: &[f32]) -> f32 {
    let off: f32 = got.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
    (off / expected.iter().map(|b| b * b).sum::<f32>()).sqrt()
}

#[test]
fn every_way_of_keeping_weights_and_activations_gives_the_gradient_as_exactly_as_it_says()
-> Result<(), Surprise> {
    use Activations::Recompute;
    use HeadWeights::{Auto, Int8};
    use MatmulPrecision::{Highest, Medium};
    // A bf16 number is off by 2^-8 at most; an int8 one by 1/254 of the largest beside it. A few
    // of these add up through three small layers, whose sums are short and average little out:
    // seen are 0.015, 0.04 (0.11 where a block of two tokens has one label, which nothing averages)
    // and 0.22, a wrong sign or a missing term is off by about 1.
    let ways = [
        (HeadWeights::F32, Highest, Activations::F32, 0.0),
        // Of weights that are not kept in bf16 it is said that they are multiplied as at highest.
        (HeadWeights::F32, Medium, Activations::F32, 0.0),
        (Auto, Highest, Recompute, 0.0),
        (Auto, Highest, Activations::Bf16, 0.03),
        (HeadWeights::Bf16, Highest, Activations::F32, 0.2),
        (HeadWeights::Bf16, Medium, Activations::F32, 0.2),
        (Int8, Highest, Activations::F32, 0.3),
        (Int8, Highest, Recompute, 0.3),
    ];
    for family in ["llama3", "qwen2"] {
        let (_place, base) = exported(&format!("families/{family}"))?;
        for shape in [(1, 2, 1), (3, 7, 2), (2, 23, 1)] {
            let case = Case::new(base.config(), shape);
            let load = |keep| Head::load(&base, 0, &Backend::cpu(), 24, keep);
            let (loss, gradient, _) = case.run(&load(Keep::default())?)?;
            for (weights, precision, activations, allowed) in ways {
                let keep = Keep { weights, precision, activations };
                let (other, slopes, _) = case.run(&load(keep)?)?;
                let off = error(&slopes, &gradient).max((other - loss).abs() / loss);
                assert!(off <= allowed, "{family} {keep:?}: {off}");
            }
        }
    }
    Ok(())
}
