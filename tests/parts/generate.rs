//! Text from the weights that learn: every position against transformers and against candle's ops.
//!
//! Oracles: `tools/golden/families.py` (transformers 5, f32), token by token; and the reference layers
//! (`Head::load_reference`), which compute with candle's ops, f32 weights and a cache of their own.

use super::families::FAMILIES;
use crate::common::{Golden, Surprise, Within, assert_close, exported, relative_error};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::{Base, Config};
use sapwood::generate::{self, End, GenerateError, Generator, Prompts, Sampling, Text};
use sapwood::head::{Backend, Decoder, Head, HeadError, Keep, Session, session_bytes};
use sapwood::settings::{HeadWeights, MatmulPrecision};
use sapwood::tokenise::Tokeniser;
use sapwood::trunk::Trunk;
use std::path::Path;
use std::thread;

const F32: Within = Within { relative: 1e-4, because: "f32 sums in another order" };
const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

/// Trunk and head of the CPU's own kernels.
fn halves(base: &Base, tap: usize, weights: HeadWeights) -> Result<(Trunk, Head), Surprise> {
    kept(base, tap, Keep { weights, ..Keep::default() })
}

fn kept(base: &Base, tap: usize, keep: Keep) -> Result<(Trunk, Head), Surprise> {
    Ok((Trunk::load(base, tap, 1)?, Head::load(base, tap, &Backend::cpu(), 2, keep)?))
}

fn reference(base: &Base) -> Result<(Trunk, Head), Surprise> {
    Ok((Trunk::load(base, 0, 1)?, Head::load_reference(base, 0, &Backend::cpu(), 2)?))
}

/// The model in the repository, and a prompt of its language.
fn small() -> Result<(Base, Vec<u32>), Surprise> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base");
    let base = Base::open(&folder)?;
    let tokeniser = Tokeniser::open(&folder, base.config().vocab)?;
    let prompt = tokeniser.encode("Once upon a time there was a little girl who lived")?;
    Ok((base, prompt))
}

/// A noisy adapter that changes every linear layer of the layers from `first` on.
fn adapter(config: &Config, first: usize) -> Adapter {
    let strength = Strength { rank: 3, alpha: 5.0 };
    let spec = Spec::uniform(config, first..config.layers, &Target::ALL, strength);
    let mut chance = ChaCha8Rng::seed_from_u64(5);
    let mut value = || 0.6 * (chance.next_u32() as f32 / u32::MAX as f32 - 0.5);
    let values = (0..spec.len()).map(|_| value()).collect();
    Adapter { spec, values }
}

/// The logits after ids that come in one call each; one alone is taken for one that was drawn.
fn follow(
    (trunk, decoder): (&Trunk, &Decoder<'_>),
    session: &mut Session<'_>,
    parts: &[&[u32]],
) -> Result<Vec<f32>, Surprise> {
    for ids in parts {
        let embedded = trunk.embedded(ids)?;
        match ids.len() {
            1 => decoder.advance(session, &embedded)?,
            _ => decoder.extend(session, &embedded)?,
        }
    }
    Ok(decoder.logits(session)?)
}

/// `count` of the likeliest tokens after a prompt, and the logits that each was taken from.
fn greedy(
    (trunk, head): &(Trunk, Head),
    prompt: &[u32],
    count: usize,
    adapter: Option<&Adapter>,
) -> Result<(Vec<u32>, Vec<Vec<f32>>), Surprise> {
    let decoder = Decoder::new(trunk, None, head);
    let mut session = decoder.session(adapter, prompt.len() + count)?;
    let (mut ids, mut all) = (Vec::new(), Vec::new());
    let mut logits = follow((trunk, &decoder), &mut session, &[prompt])?;
    while ids.len() < count {
        let likeliest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let id = likeliest.ok_or("no logits")?.0 as u32;
        ids.push(id);
        all.push(std::mem::take(&mut logits));
        logits = follow((trunk, &decoder), &mut session, &[&[id]])?;
    }
    Ok((ids, all))
}

/// Goal: token by token is the same as all at once, in every family, wherever the tap lies.
#[test]
fn every_family_gives_the_logits_of_transformers_token_by_token() -> Result<(), Surprise> {
    for family in FAMILIES {
        let (_place, base) = exported(&format!("families/{family}"))?;
        let expected = Golden::load(&format!("families/{family}/expected"))?;
        let [_, tokens] = expected.shape("input_ids")?[..] else { return Err("shape".into()) };
        let ids: Vec<u32> = expected.i64("input_ids")?.iter().map(|&id| id as u32).collect();
        let logits = expected.f32("logits")?;
        for tap in [0, 2, base.config().layers] {
            let (trunk, head) = halves(&base, tap, HeadWeights::Auto)?;
            let decoder = Decoder::new(&trunk, None, &head);
            let rows = ids.chunks(tokens).zip(logits.chunks(tokens * base.config().vocab));
            for (ids, logits) in rows {
                let mut session = decoder.session(None, tokens)?;
                for (id, expected) in ids.iter().zip(logits.chunks(base.config().vocab)) {
                    let got = follow((&trunk, &decoder), &mut session, &[&[*id]])?;
                    assert_close(&format!("{family} at tap {tap}"), &got, expected, &F32);
                }
                assert_eq!(session.seen(), tokens);
            }
        }
    }
    Ok(())
}

#[test]
fn a_prompt_and_32_tokens_are_those_of_candles_ops() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let layers = base.config().layers;
    let adapters = [None, Some(adapter(base.config(), 0)), Some(adapter(base.config(), 4))];
    let reference = reference(&base)?;
    let mut texts = Vec::new();
    for adapter in &adapters {
        let (expected, expected_logits) = greedy(&reference, &prompt, 32, adapter.as_ref())?;
        for (tap, weights) in
            [(0, HeadWeights::Auto), (4, HeadWeights::F32), (layers, HeadWeights::Auto)]
        {
            let ours = halves(&base, tap, weights)?;
            let (ids, logits) = greedy(&ours, &prompt, 32, adapter.as_ref())?;
            assert_eq!(ids, expected, "tap {tap}");
            for (at, (got, expected)) in logits.iter().zip(&expected_logits).enumerate() {
                assert_close(&format!("tap {tap}, token {at}"), got, expected, &F32);
            }
        }
        texts.push(expected);
    }
    assert!(texts[0] != texts[1] && texts[0] != texts[2] && texts[1] != texts[2], "{texts:?}");
    Ok(())
}

#[test]
fn rounded_weights_give_nearly_the_same_logits() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let (_, expected) = greedy(&reference(&base)?, &prompt, 1, None)?;
    // 2^-8 of a weight in bf16 and of the largest in int8, through six layers; rows of a prompt are
    // rounded too, to 8 bits where the processor multiplies whole numbers, to bf16 at medium precision
    // where it can. Another model is off by 1.
    let ways = [
        (HeadWeights::Bf16, MatmulPrecision::Highest, 0.02),
        (HeadWeights::Bf16, MatmulPrecision::Medium, 0.03),
        (HeadWeights::Int8, MatmulPrecision::Highest, 0.15),
    ];
    for (weights, precision, allowed) in ways {
        let ours = kept(&base, 0, Keep { weights, precision, ..Keep::default() })?;
        let (_, at_once) = greedy(&ours, &prompt, 1, None)?;
        let decoder = Decoder::new(&ours.0, None, &ours.1);
        let mut session = decoder.session(None, prompt.len())?;
        let one_by_one: Vec<&[u32]> = prompt.chunks(1).collect();
        let logits = follow((&ours.0, &decoder), &mut session, &one_by_one)?;
        for got in [&at_once[0], &logits] {
            let off = relative_error(got, &expected[0]);
            assert!(off > 0.0 && off <= allowed, "{weights:?} {precision:?}: {off}");
        }
    }
    Ok(())
}

#[test]
fn a_prompt_in_parts_is_the_prompt_at_once() -> Result<(), Surprise> {
    let (base, _) = small()?;
    // Longer than what goes through the layers together, and than a tile of queries.
    let ids: Vec<u32> =
        (0..300).map(|t| (t * 7919 + t * t + 5) % base.config().vocab as u32).collect();
    let (trunk, head) = halves(&base, 3, HeadWeights::Auto)?;
    let decoder = Decoder::new(&trunk, None, &head);
    let run = |parts: &[&[u32]]| {
        let mut session = decoder.session(None, ids.len())?;
        follow((&trunk, &decoder), &mut session, parts)
    };
    let whole = run(&[&ids])?;
    let parts =
        [vec![&ids[..1], &ids[1..2], &ids[2..]], vec![&ids[..37], &ids[37..299], &ids[299..]]];
    for parts in parts {
        assert_close("logits", &run(&parts)?, &whole, &F32);
    }
    assert!(relative_error(&run(&[&ids[250..]])?, &whole) > 1e-2, "the test above tests nothing");
    Ok(())
}

#[test]
fn texts_written_in_turns_are_those_written_alone() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let (trunk, head) = halves(&base, 4, HeadWeights::Auto)?;
    let generator = Generator::new(&trunk, None, &head);
    let (adapter, other) = (adapter(base.config(), 4), &prompt[..5]);
    let sampling = Sampling { temperature: 0.8, top_p: 0.9, seed: 3, ..Sampling::default() };
    let start = |which: bool| match which {
        true => generator.start(&prompt, 24, None, sampling),
        false => generator.start(other, 24, Some(&adapter), sampling),
    };
    let alone = |which| -> Result<Vec<u32>, GenerateError> {
        let (mut text, mut ids) = (start(which)?, Vec::new());
        while let Some(id) = text.next_token()? {
            ids.push(id);
        }
        Ok(ids)
    };
    let expected = [alone(true)?, alone(false)?];
    assert_ne!(expected[0], expected[1]);
    let (mut texts, mut ids) = ([start(true)?, start(false)?], [const { Vec::new() }; 2]);
    for turn in 0..60 {
        let which = turn * 5 / 3 % 2;
        ids[which].extend(texts[which].next_token()?);
    }
    assert_eq!(ids, expected);
    let together = thread::scope(|scope| {
        let texts = [true, false].map(|which| scope.spawn(move || alone(which)));
        texts.map(|text| text.join().map_err(|_| "a thread stopped"))
    });
    let [first, second] = together;
    assert_eq!([first??, second??], expected);
    Ok(())
}

#[test]
fn a_text_is_the_same_on_any_number_of_threads() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let (trunk, head) = halves(&base, 2, HeadWeights::Auto)?;
    let generator = Generator::new(&trunk, None, &head);
    let adapter = adapter(base.config(), 2);
    let long: Vec<u32> = prompt.iter().cycle().take(150).copied().collect();
    let sampling = Sampling { temperature: 1.0, top_p: 0.95, seed: 9, ..Sampling::default() };
    let write = |threads: usize| -> Result<Vec<u32>, Surprise> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let written = pool.install(|| -> Result<Vec<u32>, GenerateError> {
            let mut text = generator.start(&long, 20, Some(&adapter), sampling)?;
            let mut ids = Vec::new();
            while let Some(id) = text.next_token()? {
                ids.push(id);
            }
            Ok(ids)
        });
        Ok(written?)
    };
    let one = write(1)?;
    assert!(!one.is_empty());
    assert_eq!(one, write(2)?);
    assert_eq!(one, write(3)?);
    Ok(())
}

#[test]
fn a_text_tells_why_it_ended() -> Result<(), Surprise> {
    let (_place, base) = exported("families/smollm2")?;
    let engines = generate::load(&base, &Backend::cpu(), Keep::default())?;
    let generator = Generator::new(&engines.0, None, &engines.1);
    let context = generator.context();
    assert_eq!(context, base.config().context);
    let write = |prompt: &[u32], tokens_max| -> Result<(usize, Option<End>), GenerateError> {
        // Hot enough that any token may come, the end token too.
        let sampling = Sampling { temperature: 100.0, top_p: 1.0, seed: 1, ..Sampling::default() };
        let mut text = generator.start(prompt, tokens_max, None, sampling)?;
        let mut count = 0;
        while text.next_token()?.is_some() {
            assert!(text.end().is_none() || count + 1 == tokens_max.min(context - prompt.len()));
            count += 1;
        }
        Ok((count, text.end()))
    };
    assert_eq!(write(&[3, 4], 0)?, (0, Some(End::Length)));
    assert_eq!(write(&[3, 4], 1)?, (1, Some(End::Length)));
    let full = vec![5; context - 2];
    assert_eq!(write(&full, 1000)?, (2, Some(End::Length)));
    let (count, end) = write(&[3], 10_000)?;
    assert!(count < context - 1 && end == Some(End::Token), "{count} {end:?}");
    Ok(())
}

#[test]
fn what_no_text_can_be_made_of_is_refused() -> Result<(), Surprise> {
    let (_place, base) = exported("families/mistral")?;
    let (trunk, head) = generate::load(&base, &Backend::cpu(), Keep::default())?;
    let generator = Generator::new(&trunk, None, &head);
    let refusal = |prompt: &[u32], adapter: Option<&Adapter>| {
        let text = generator.start(prompt, 5, adapter, GREEDY);
        text.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refusal(&[], None).contains("no tokens"));
    // Its attention reaches back 64 tokens.
    assert!(refusal(&[1; 64], None).contains("64 tokens, expected fewer"));
    assert_eq!(refusal(&[1; 63], None), "");
    assert!(refusal(&[1, 96], None).contains("token 96 is not in the vocabulary of 96"));
    let mut other = adapter(base.config(), 1);
    other.spec.modules[0].fan_in += 1;
    assert!(refusal(&[1], Some(&other)).contains("does not fit"));
    let (other_trunk, _) = halves(&base, 1, HeadWeights::Auto)?;
    let apart = Decoder::new(&other_trunk, None, &head).session(None, 4).err();
    assert!(matches!(apart, Some(HeadError::Apart { lower: 1, tap: 0 })), "{apart:?}");
    let decoder = Decoder::new(&trunk, None, &head);
    let mut session = decoder.session(None, 3)?;
    assert!(follow((&trunk, &decoder), &mut session, &[&[1, 2], &[3, 4]]).is_err());
    assert_eq!(session.seen(), 2);
    Ok(())
}

#[test]
fn a_session_says_what_its_keys_and_values_take() -> Result<(), Surprise> {
    let (base, _) = small()?;
    let (trunk, head) = halves(&base, 4, HeadWeights::Auto)?;
    let generator = Generator::new(&trunk, None, &head);
    let Config { layers, kv_heads, head_dim, .. } = *base.config();
    let kept = |tokens: usize| (2 * 4 * layers * kv_heads * head_dim * tokens) as u64;
    // Past the rows that go through the layers together, only keys and values grow.
    assert_eq!(generator.session_bytes(500) - generator.session_bytes(400), kept(100));
    assert!(generator.session_bytes(1) > kept(1));
    assert_eq!(generator.session_bytes(usize::MAX), generator.session_bytes(generator.context()));
    let of = |texts, tokens| session_bytes(base.config(), texts, tokens);
    assert_eq!(of(1, 500), generator.session_bytes(500));
    assert_eq!(of(7, 500) - of(7, 400), 7 * kept(100));
    assert_eq!(of(usize::MAX, 500), of(generator.abreast(usize::MAX), 500));
    Ok(())
}

/// All tokens of a text.
fn rest(text: &mut Text<'_>) -> Result<Vec<u32>, Surprise> {
    let mut ids = Vec::new();
    while let Some(id) = text.next_token()? {
        ids.push(id);
    }
    Ok(ids)
}

/// A prompt that begins as a text did is read from where they part, on both engines.
#[test]
fn what_was_read_is_not_read_again_and_says_the_same() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let adapter = adapter(base.config(), 2);
    for (trunk, head) in [halves(&base, 2, HeadWeights::Auto)?, reference(&base)?] {
        let generator = Generator::new(&trunk, None, &head);
        for adapter in [None, Some(&adapter)] {
            let mut first = generator.start(&prompt, 6, adapter, GREEDY)?;
            let written = rest(&mut first)?;
            let read = first.read();
            // All but the token that was drawn last went through the layers.
            let known = [&prompt[..], &written[..written.len() - 1]].concat();
            let elsewhere = [&prompt[..4], &prompt[..3]].concat();
            let further = [&known[..], &prompt[..5]].concat();
            let unlike = [&prompt[1..2], &prompt[..]].concat();
            for (next, shared) in [
                (&prompt, prompt.len() - 1),
                (&elsewhere, 4),
                (&further, known.len()),
                (&known, known.len() - 1),
                (&unlike, 0),
                (&prompt[..1].to_vec(), 0),
            ] {
                let mut alone = generator.start(next, 8, adapter, GREEDY)?;
                let mut after = generator.start_after(Some(&read), next, 8, adapter, GREEDY)?;
                assert_eq!((alone.shared(), after.shared()), (0, shared));
                assert_close("the first logits", after.logits(), alone.logits(), &F32);
                assert_eq!(rest(&mut after)?, rest(&mut alone)?);
                assert_close("the last logits", after.logits(), alone.logits(), &F32);
            }
        }
    }
    Ok(())
}

/// A prompt that is asked for again is answered as before: its last token, which is read alone then, is rounded
/// as in its first reading. Greedy texts would part at a near tie otherwise.
#[test]
fn a_known_prompt_is_rounded_as_it_was_read_first() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let adapter = adapter(base.config(), 2);
    let turned = Within { relative: 2e-3, because: "such sums rounded to the other side" };
    for (weights, precision, within) in [
        (HeadWeights::Bf16, MatmulPrecision::Medium, &turned),
        (HeadWeights::Int8, MatmulPrecision::Highest, &turned),
        (HeadWeights::Auto, MatmulPrecision::Highest, &F32),
    ] {
        let (trunk, head) = kept(&base, 2, Keep { weights, precision, ..Keep::default() })?;
        let generator = Generator::new(&trunk, None, &head);
        for adapter in [None, Some(&adapter)] {
            let first = generator.start(&prompt, 6, adapter, GREEDY)?;
            for cut in [prompt.len() - 1, prompt.len() - 3, 1] {
                let other = [&prompt[..cut], &prompt[..1]].concat();
                let read = generator.start(&other, 6, adapter, GREEDY)?.read();
                let again = generator.start_after(Some(&read), &prompt, 6, adapter, GREEDY)?;
                assert!(again.shared() >= cut);
                let name = format!("{weights:?} {precision:?} from token {cut}");
                // Of much that is read anew, a sum or two lie at the edge of a rounding.
                let within = if cut > 1 { &F32 } else { within };
                assert_close(&name, again.logits(), first.logits(), within);
            }
        }
    }
    Ok(())
}

#[test]
fn what_was_read_is_kept_within_its_bytes_and_for_whom_it_was_read() -> Result<(), Surprise> {
    let (base, prompt) = small()?;
    let (trunk, head) = halves(&base, 0, HeadWeights::Auto)?;
    let generator = Generator::new(&trunk, None, &head);
    let start = |ids: &[u32]| generator.start(ids, 2, None, GREEDY);
    let shared = |read: Option<&_>, ids: &[u32]| -> Result<usize, Surprise> {
        Ok(generator.start_after(read, ids, 2, None, GREEDY)?.shared())
    };
    let one = start(&prompt)?;
    let bytes = {
        let prompts = Prompts::new(u64::MAX);
        prompts.keep(1, &one);
        prompts.bytes()
    };
    let Config { layers, kv_heads, head_dim, .. } = *base.config();
    assert_eq!(bytes, (2 * layers * kv_heads * head_dim * prompt.len() * size_of::<f32>()) as u64);

    let prompts = Prompts::new(2 * bytes);
    prompts.keep(1, &one);
    assert!(prompts.find(2, &prompt).is_none(), "another adapter's numbers are others");
    let [second, third] = [1, 2].map(|from| [&prompt[from..], &prompt[..from]].concat());
    prompts.keep(1, &start(&second)?);
    assert_eq!(prompts.bytes(), 2 * bytes);
    // The first is used, so that the second goes when a third comes.
    assert_eq!(shared(prompts.find(1, &prompt).as_deref(), &prompt)?, prompt.len() - 1);
    prompts.keep(1, &start(&third)?);
    assert_eq!(prompts.bytes(), 2 * bytes);
    assert!(prompts.find(1, &second).is_none());
    let beside = [&third[..3], &third[..3]].concat();
    assert_eq!(shared(prompts.find(1, &beside).as_deref(), &beside)?, 3, "the nearest is found");

    // A text that goes on from another takes its place, and not the other way round.
    let short = &prompt[..prompt.len() - 3];
    prompts.keep(1, &start(short)?);
    assert_eq!(prompts.bytes(), 2 * bytes);
    let prompts = Prompts::new(2 * bytes);
    prompts.keep(1, &start(short)?);
    prompts.keep(1, &one);
    assert_eq!(prompts.bytes(), bytes);

    prompts.keep(2, &start(&second)?);
    prompts.retain(|whose| whose == 2);
    assert!(prompts.find(1, &prompt).is_none() && prompts.find(2, &second).is_some());
    let none = Prompts::new(bytes - 1);
    none.keep(1, &one);
    assert_eq!(none.bytes(), 0, "what is too large is not kept");
    Ok(())
}
