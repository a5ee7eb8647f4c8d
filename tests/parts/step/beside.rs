//! Steps beside another adapter that stays, and own ranks fitted again beside a new one.
//!
//! Oracle: `tools/golden/step.py`: PEFT with two adapters in force, Cholesky and a dense SVD in f64.

use super::{ENGINES, F32, Owned, adapter, rules, spec};
use crate::common::{Golden, Surprise, Within, assert_close, exported};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::adapter::stacked::{part, stack};
use sapwood::adapter::{Adapter, Module, Spec, Strength, Target};
use sapwood::head::{Group, Seen};
use sapwood::settings::EmbeddingLayers;
use sapwood::train::{self, Batch, Learners, Moments, Rules, refit};

const ROOT: Within = Within {
    relative: 1e-3,
    because: "the root of the moments is found in f32 to 1e-4; the oracle is f64 throughout",
};

/// A global adapter and the learner's own as one, of which the first ranks stay to the bit: as PEFT has two
/// adapters in force and gradients for one.
#[test]
fn steps_beside_an_adapter_that_stays_equal_those_of_torch() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/beside")?;
    let own = spec(&base);
    let still = Strength { rank: 3, alpha: 5.0 };
    let global = Spec::uniform(base.config(), 1..3, &Target::ALL, still);
    let global = adapter(&golden, &global, "global")?;
    let whole = |prefix| -> Result<Adapter, Surprise> {
        Ok(stack(&global, &adapter(&golden, &own, prefix)?)?)
    };
    for engine in ENGINES {
        let (fast, slow) = (whole("fast_before")?, whole("slow_before")?);
        let before = part(&fast, &(0..3));
        let moments = Moments::zeros(fast.values.len());
        let mut learners = Learners { fast, slow, moments, k: 0 };
        let head = engine.load(&base, 1, 12)?;
        let rules = Rules { still: 3, ..rules(EmbeddingLayers::Last) };
        for k in 1..=3 {
            let fresh = Owned::load(&golden, &format!("fresh{k}."), 0)?;
            let replay = Owned::load(&golden, &format!("replay{k}."), 0)?;
            let batch = Batch {
                fresh: Group { blocks: &fresh.blocks(), hidden: &fresh.hidden },
                replay: Some(Group { blocks: &replay.blocks(), hidden: &replay.hidden }),
                anchor: None,
            };
            let step = train::step(&head, &mut learners, &[batch], &rules, 1e-2)?;
            let [total, norm] =
                ["total", "gradient_norm"].map(|name| golden.f32(&format!("{name}{k}")));
            assert_close("total", &[step.losses.total], &total?, &F32);
            assert_close("gradient norm", &[step.gradient_norm], &norm?, &F32);
        }
        for (name, learner) in [("fast_after", &learners.fast), ("slow_after", &learners.slow)] {
            let after = adapter(&golden, &own, name)?;
            assert_close(name, &part(learner, &(3..7)).values, &after.values, &F32);
            assert_eq!(part(learner, &(0..3)), before, "{name}: what stays has moved");
        }
    }
    Ok(())
}

/// What is fitted again beside another global adapter is the closed form's optimum, for both learners.
#[test]
fn own_ranks_fitted_again_equal_the_closed_form() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/refit")?;
    let global = Strength { rank: 3, alpha: 5.0 };
    let global = Spec::uniform(base.config(), 1..3, &Target::ALL, global);
    let next = adapter(&golden, &global, "next")?;
    let (fast, slow) =
        (adapter(&golden, &spec(&base), "fast")?, adapter(&golden, &spec(&base), "slow")?);
    let text = Owned::load(&golden, "text.", 0)?;
    let own = Spec::uniform(base.config(), 1..3, &Target::ALL, Strength { rank: 5, alpha: 7.0 });
    let fresh = Adapter::fresh(own, &mut ChaCha8Rng::seed_from_u64(1));
    for engine in ENGINES {
        let mut seen = Seen::new(&fresh.spec);
        let group = Group { blocks: &text.blocks(), hidden: &text.hidden };
        engine.load(&base, 1, 12)?.see(&group, Some(&slow), &mut seen)?;
        let moments = Moments::zeros(fast.values.len());
        let learners = Learners { fast: fast.clone(), slow: slow.clone(), moments, k: 9 };
        let fitted = refit(&learners, &next, &fresh, &seen, 0.1)?;
        assert_eq!(fitted.moments, Moments::zeros(fitted.fast.values.len()));
        for (learner, name) in [(&fitted.fast, "own_fast"), (&fitted.slow, "own_slow")] {
            assert_close(
                "the new global",
                part(learner, &(0..3)).a(&next.spec.modules[0]),
                next.a(&next.spec.modules[0]),
                &F32,
            );
            let own = part(learner, &(3..8));
            for target in [Target::Q, Target::O, Target::Gate, Target::Down] {
                let module = own.spec.module(1, target).ok_or("module")?;
                let expected = golden.f32(&format!("{name}.model.layers.1.{}", target.module()))?;
                assert_close(
                    &format!("{name} {target:?}"),
                    &product(&own, module),
                    &expected,
                    &ROOT,
                );
            }
        }
        let [fast, slow] = [&fitted.fast, &fitted.slow].map(|learner| part(learner, &(3..8)));
        for module in &fast.spec.modules {
            assert_eq!(fast.a(module), slow.a(module), "one input space for both");
        }
    }
    Ok(())
}

/// Where nothing was seen, nothing is made good, and what is fresh stays so.
#[test]
fn own_ranks_stay_fresh_where_nothing_was_seen() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let golden = Golden::load("step/refit")?;
    let global = Spec::uniform(base.config(), 1..3, &Target::ALL, Strength { rank: 3, alpha: 5.0 });
    let next = adapter(&golden, &global, "next")?;
    let learners = Learners::new(adapter(&golden, &spec(&base), "fast")?);
    let fresh = Adapter::fresh(spec(&base), &mut ChaCha8Rng::seed_from_u64(1));
    let fitted = refit(&learners, &next, &fresh, &Seen::new(&fresh.spec), 0.1)?;
    assert_eq!(part(&fitted.slow, &(3..7)), fresh);
    assert_eq!(fitted.fast, fitted.slow);
    Ok(())
}

/// `scale * B A` of a module, `[out, in]`.
fn product(adapter: &Adapter, module: &Module) -> Vec<f32> {
    let (a, b) = (adapter.a(module), adapter.b(module));
    let entry = |at: usize| {
        let (row, column) = (at / module.fan_in, at % module.fan_in);
        let terms =
            (0..module.rank).map(|k| b[row * module.rank + k] * a[k * module.fan_in + column]);
        module.scale * terms.sum::<f32>()
    };
    (0..module.fan_in * module.fan_out).map(entry).collect()
}
