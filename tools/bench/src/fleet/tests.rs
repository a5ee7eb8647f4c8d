//! The simulation at tiny size, against what must hold whatever is learned.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::device::{Device, Shared};
use super::merge;
use super::play::{Event, Fleet, Round, Step};
use super::record::{Record, Setup};
use super::rule::{Judge, Rule};
use super::texts::{Domain, HeldBack, Texts};
use super::way::Way;
use super::{front, report};
use fleet_server::aggregate::Rule as Weighing;
use fleet_server::aggregate::attacks::Attack;
use sapwood::adapter::Adapter;
use sapwood::adapter::compare::diff;
use sapwood::adapter::stacked::part;
use sapwood::block::Block;
use sapwood::learner::{Domains, Engines, HeldOut, Stream};
use sapwood::settings::{Method, Settings};
use sapwood_tiny as tiny;
use std::sync::OnceLock;

/// Ranks of an own part and of a merged adapter: as many as a module of the tiny base has at least.
const RANKS: [usize; 2] = [4, 16];

fn settings() -> Settings {
    Settings {
        iters: 20,
        batch_size: 3,
        replay_batch_size: 3,
        replay_blocks: 30,
        anchor_blocks: 3,
        whitening: 30.0,
        num_layers: 2,
        max_seq_length: 16,
        learning_rate: 3e-2,
        target_modules: ["q_proj", "o_proj", "down_proj"].map(str::to_owned).to_vec(),
        rank: RANKS[0],
        alpha: 8.0,
        threads: 1,
        ..Settings::default()
    }
}

fn engines() -> &'static Engines {
    static ENGINES: OnceLock<(tempfile::TempDir, Engines)> = OnceLock::new();
    let made = || {
        let place = tempfile::tempdir().unwrap();
        let (hf, model) = (place.path().join("hf"), place.path().join("model"));
        tiny::write(&hf, 7, tiny::VOCAB).unwrap();
        sapwood::base::export(&hf, &model, sapwood::base::ExportOptions::default()).unwrap();
        let engines = Engines::load(&model, &settings()).unwrap();
        (place, engines)
    };
    &ENGINES.get_or_init(made).1
}

/// Blocks that count up from `from` on, each from another start: a rule that can be learned.
fn blocks(from: u32, count: usize) -> Vec<Block> {
    let block = |i: usize| {
        let length = 6 + i * 7 % 9;
        let tokens = (0..length).map(|t| from + ((i * 3 + t) % 20) as u32).collect();
        let learn = (0..length).map(|t| t > 0).collect();
        Block { tokens, learn, bytes: length as u32 - 1, domain: 0 }
    };
    (0..count).map(block).collect()
}

fn held_back(from: u32) -> HeldBack {
    HeldBack { valid: blocks(from, 4), test: blocks(from, 6) }
}

fn texts(devices: usize, rounds: usize) -> Texts {
    let domain = |from| Domain { train: blocks(from, 60), held_back: held_back(from) };
    let domains = [domain(10), domain(50)];
    Texts::deal(&domains, &held_back(200), [devices, rounds], 0).unwrap()
}

fn own() -> &'static [Block] {
    static OWN: OnceLock<Vec<Block>> = OnceLock::new();
    OWN.get_or_init(|| blocks(100, 3))
}

fn shared(texts: &Texts) -> Shared<'_> {
    Shared::new(engines(), &settings(), RANKS[1], &texts.blocks, own()).unwrap()
}

/// Every event of a fleet.
fn played(texts: &Texts, rules: &[Rule]) -> Vec<Event> {
    let ways = Way::all(rules, &[Weighing::Mean], &[None]);
    attacked(texts, &ways, 0)
}

fn attacked(texts: &Texts, ways: &[Way], hostile: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut tell = |event| {
        events.push(event);
        Ok(())
    };
    let mut fleet = Fleet::new(shared(texts), texts, 0, Step::Given(1.0), hostile).unwrap();
    fleet.play(ways, &mut tell).unwrap();
    events
}

fn rounds(events: Vec<Event>) -> Vec<Round> {
    let round = |event| match event {
        Event::Round(round) => Some(round),
        Event::Recall(_) => None,
    };
    events.into_iter().filter_map(round).collect()
}

/// A device after its first round.
fn learned<'t>(shared: &mut Shared<'t>, texts: &'t Texts) -> Device {
    let mut device = Device::new(shared, 0, 5, texts.spans[0].clone()).unwrap();
    device.learn(shared, 0, |_| Ok(())).unwrap();
    device
}

fn install(rule: &Rule, shared: &mut Shared<'_>, device: &mut Device, next: &Adapter) {
    let held = held_back(10);
    let scored = HeldOut::new(&engines().trunk, &held.valid, 4, &mut || Ok(())).unwrap();
    let judge = Judge { own: &scored, general: &scored };
    rule.install(shared, device, next, &judge).unwrap();
}

/// What learns without a fleet is what a stream of its pieces learns, to the bit.
#[test]
fn a_device_of_no_fleet_learns_as_a_stream_does() {
    let texts = texts(2, 2);
    let mut domains = Domains::new();
    for (name, span) in ["one", "two"].into_iter().zip(&texts.spans[0]) {
        domains.names.push(name.to_owned());
        domains.test.push(texts.domains[0].test.clone());
        domains.spans.push(span.clone());
    }
    domains.blocks.clone_from(&texts.blocks);
    domains.own = own().to_vec();
    let mut stream = Stream::new(engines(), &domains, 1 << 20).unwrap();
    let matrix = stream.run(Method::Sapwood, &settings(), |_, _| {}).unwrap();
    let rounds = rounds(played(&texts, &[Rule::Local]));
    for (round, row) in rounds.iter().zip(&matrix.rows) {
        assert_eq!(round.before[0].own, row[0], "round {}", round.round);
        assert_eq!(round.before, round.after);
    }
    assert!(matrix.before[0] - matrix.rows[0][0] > 0.5, "nothing was learned: {matrix:?}");
    assert!(rounds[0].before[0] != rounds[0].before[1], "two devices are one");
}

/// One device alone gets back what it sent: 1e-5 for factors that are written in f32.
#[test]
fn the_merge_of_one_device_is_what_it_sent() {
    let texts = texts(2, 2);
    let mut shared = shared(&texts);
    let mut device = learned(&mut shared, &texts);
    let slow = device.learners.slow.clone();
    assert_eq!(device.own_part(), slow);
    for merged in [merge::products, merge::factors] {
        let next = merged(std::slice::from_ref(&slow), None, &shared.global, 1.0).unwrap();
        let off = diff(&slow, &next.adapter).unwrap().total.relative.unwrap();
        assert!(off < 1e-5 && next.dropped < 1e-9, "{off} {}", next.dropped);
        let half = merged(std::slice::from_ref(&slow), None, &shared.global, 0.5).unwrap();
        let off = diff(&slow, &half.adapter).unwrap().total.relative.unwrap();
        assert!((off - 0.5).abs() < 1e-5, "{off}");
    }
    let next =
        merge::products(std::slice::from_ref(&slow), None, &shared.global, 1.0).unwrap().adapter;
    install(&Rule::Replace, &mut shared, &mut device, &next);
    let off = diff(&slow, &device.learners.slow).unwrap().total.relative.unwrap();
    assert!(off < 1e-5, "a fresh part changes nothing yet: {off}");
    // Beside what it is itself, it counts twice.
    let mut twice = learned(&mut shared, &texts);
    install(&Rule::Keep, &mut shared, &mut twice, &next);
    let off = diff(&slow, &twice.learners.slow).unwrap().total.relative.unwrap();
    assert!((off - 1.0).abs() < 1e-5, "{off}");
    // And nothing is left for it to make good.
    let mut fitted = learned(&mut shared, &texts);
    install(&Rule::Refit(1e-3), &mut shared, &mut fitted, &next);
    let off = diff(&slow, &fitted.learners.slow).unwrap().total.relative.unwrap();
    assert!(off < 1e-4, "{off}");
}

/// At a tiny ridge the function on the text that was learned stays, and the merged adapter's ranks with it.
#[test]
fn a_refit_at_a_tiny_ridge_keeps_the_own_text() {
    let texts = texts(2, 2);
    let mut shared = shared(&texts);
    let mut other = Device::new(&mut shared, 1, 6, texts.spans[1].clone()).unwrap();
    other.learn(&mut shared, 0, |_| Ok(())).unwrap();
    let next = merge::products(&[other.own_part()], None, &shared.global, 1.0).unwrap().adapter;
    let learned_text =
        HeldOut::new(&engines().trunk, &texts.blocks[texts.spans[0][0].clone()], 8, &mut || Ok(()))
            .unwrap();
    let score = |device: &Device| {
        let slow = Some(&device.learners.slow);
        learned_text.score(&engines().head, slow, &mut || Ok(())).unwrap().bits_per_byte()
    };
    let mut ways = Vec::new();
    let mut before = 0.0;
    for rule in [Rule::Refit(1e-3), Rule::Refit(1e3), Rule::Replace] {
        let mut device = learned(&mut shared, &texts);
        before = score(&device);
        install(&rule, &mut shared, &mut device, &next);
        assert_eq!(device.still, RANKS[1]);
        assert_eq!(part(&device.learners.slow, &(0..RANKS[1])).spec.modules[0].rank, RANKS[1]);
        ways.push(score(&device));
    }
    let [kept, left, replaced] = ways[..] else { unreachable!() };
    assert!((kept / before - 1.0).abs() < 0.02, "{kept}, not {before}");
    assert!((left / replaced - 1.0).abs() < 0.02, "{left}, not {replaced}");
    assert!(replaced > 1.05 * before, "{replaced}, {before}: nothing to lose");
}

/// Hostile devices change what is merged and are in no score; where they are not there, they never were.
#[test]
fn an_attack_is_felt_by_the_honest_and_absent_without_hostile_devices() {
    let texts = texts(10, 2);
    let attacks = [None, Some(Attack::MinusMean)];
    let merges = [Weighing::Mean, Weighing::Robust];
    let ways = Way::all(&[Rule::Replace], &merges, &attacks);
    let rounds = rounds(attacked(&texts, &ways, 2));
    assert_eq!(rounds.len(), 8);
    let alone = |way: &Way| {
        let own = rounds.iter().find(|it| it.rule == way.title() && it.round == 1).unwrap();
        assert_eq!((own.before.len(), own.after.len(), own.ridges.len()), (8, 8, 8));
        own.alone.unwrap()[0]
    };
    let [mean, attacked_mean, robust, attacked_robust] = [0, 1, 2, 3].map(|at| alone(&ways[at]));
    let harm = [attacked_mean - mean, attacked_robust - robust];
    assert!(harm[0] > 0.02 && harm[1] < harm[0] / 2.0, "{harm:?}");
}

/// All rules from one first round to a table and a plot; what is on record is not played again.
#[test]
fn a_fleet_is_played_recorded_and_shown() {
    let texts = texts(2, 2);
    let ridges = [0.1, 1.0];
    let rules = Rule::all(<super::Word as clap::ValueEnum>::value_variants(), &ridges);
    let events = played(&texts, &rules);
    let setup = Setup {
        base: "0".to_owned(),
        domains: vec!["one".to_owned(), "two".to_owned()],
        devices: 2,
        hostile: 0,
        rounds: 2,
        iters: 20,
        late: 0,
        ranks: RANKS,
        eta: 1.0,
        judged: false,
        eval_blocks: 6,
    };
    let place = tempfile::tempdir().unwrap();
    let mut record = Record::open(place.path(), setup.clone()).unwrap();
    for event in &events {
        record.add(event.clone(), false).unwrap();
    }
    let first = |rule: &Rule| record.figures(&rule.title(), 1, |it| it.before[0].own);
    assert!(rules.iter().all(|rule| first(rule) == first(&Rule::Local)), "one first round");
    let table = report::tables(&record);
    assert!(rules.iter().all(|rule| table.contains(&rule.title())), "{table}");
    assert!(table.contains("100 %") && !table.contains("NaN"), "{table}");
    let plot = front::plot(&record);
    assert_eq!(plot.matches("<circle").count(), rules.len());
    assert!(!plot.contains("NaN"), "{plot}");
    drop(record);
    // The last line is cut off: that rule is open again, the others are not.
    let lines = place.path().join("fleet.jsonl");
    let text = std::fs::read_to_string(&lines).unwrap();
    std::fs::write(&lines, &text[..text.len() - 9]).unwrap();
    let mut record = Record::open(place.path(), setup.clone()).unwrap();
    let open = |record: &Record| rules.iter().filter(|it| !record.has(0, &it.title())).count();
    assert_eq!(open(&record), 1);
    record.add(events[events.len() - 1].clone(), false).unwrap();
    drop(record);
    let record = Record::open(place.path(), setup.clone()).unwrap();
    assert_eq!((open(&record), report::tables(&record)), (0, table));
    let other = Setup { eta: 0.5, ..setup };
    let said = Record::open(place.path(), other).err().unwrap().to_string();
    assert!(said.contains("another fleet"), "{said}");
}
