//! A round from its invites to a candidate in the lab: over TLS, with a merge that runs by itself.

use crate::common::{
    self, DAY_ONE_MS, Fleet, adapter, candidate, cohort, fleet, given, open, promote, until,
};
use fleet_server::aggregate::{self, Clip};
use fleet_server::cohorts::{self, Cohort};
use fleet_server::judge::{self, JudgeError, Score, Scores};
use fleet_server::operator::rounds::{self as orders, Verdict};
use fleet_server::overview;
use fleet_server::rounds::{self, NONE, State};
use fleet_server::store::{Book, Columns};
use sapwood::adapter::{Adapter, Spec, Strength, wire};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::{self, Installed, Receipt};
use sapwood_protocol::fleet::statement::{Role, Standing};
use sapwood_protocol::fleet::trust::Trust;
use sapwood_protocol::fleet::update::{Expected, Kind};
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

/// `B A` of every module, row by row.
fn products(adapter: &Adapter) -> Vec<f64> {
    let mut all = Vec::new();
    for module in &adapter.spec.modules {
        let (a, b) = (adapter.a(module), adapter.b(module));
        for row in 0..module.fan_out {
            for column in 0..module.fan_in {
                let one = |r: usize| {
                    f64::from(b[row * module.rank + r]) * f64::from(a[r * module.fan_in + column])
                };
                all.push((0..module.rank).map(one).sum::<f64>() * f64::from(module.scale));
            }
        }
    }
    all
}

fn global(fleet: &Fleet, hash: Hash) -> Adapter {
    global_from(fleet, hash, NONE)
}

fn global_from(fleet: &Fleet, hash: Hash, from: Hash) -> Adapter {
    let home = fleet.home();
    let cohort = cohort(&home);
    let shape = cohort.shape.unwrap();
    let expected = Expected {
        kind: Kind::Global,
        base: cohort.base,
        cohort: cohort.id,
        from: Some(from),
        shape: &shape,
        rank_max: 3,
    };
    wire::decode(&home.blobs.read(hash).unwrap(), &expected).unwrap().0
}

#[test]
fn updates_become_a_candidate_that_only_the_lab_is_offered() {
    let (fleet, mut devices) = fleet(4);
    let round = open(&fleet);
    let mut files = Vec::new();
    for (n, device) in devices.iter_mut().enumerate() {
        let invite = device.check_in().unwrap().invite.unwrap();
        assert_eq!((invite.round, invite.artifact, invite.rank_max), (round, NONE, 128));
        assert_eq!(
            device.check_in().unwrap().invite.map(|invite| invite.round),
            Some(round),
            "asked again"
        );
        let file = device.update(NONE, n as u64);
        let reply = device.upload(round, &file);
        assert_eq!(reply.status, 201, "{}", reply.text());
        assert_eq!(message::read::<Receipt>(&reply.body).unwrap().receipt, Hash::of(&file));
        let again = device.upload(round, &file);
        assert_eq!(again.status, 200, "{}", again.text());
        files.push(file);
    }
    let merged = until(&fleet, round, State::Merged);
    assert!(devices[0].check_in().unwrap().invite.is_none());
    let late = devices[0].upload(round, &files[0]);
    assert_eq!(late.status, 200, "the answer was lost, and the round has gone on");
    let other = devices[0].update(NONE, 99);
    assert_eq!(devices[0].upload(round, &other).refusal().error, Code::AlreadyUploaded);

    // Oracle: the weighted, clipped mean of dense products in f64, of which rank 3 keeps the best part.
    let all: Vec<Vec<f64>> = (0..4).map(|n| products(&adapter(2, n))).collect();
    let norms: Vec<f64> = all.iter().map(|p| p.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    let median = f64::midpoint(sorted[1], sorted[2]);
    let tokens: Vec<f64> = (0..4).map(|n| f64::from(1000 + n)).collect();
    let sum: f64 = tokens.iter().sum();
    let mean: Vec<f64> = (0..all[0].len())
        .map(|at| (0..4).map(|n| tokens[n] / sum * (median / norms[n]).min(1.0) * all[n][at]).sum())
        .collect();
    let (hash, _) = merged.result.unwrap();
    let got = products(&global(&fleet, hash));
    let left: f64 = mean.iter().zip(&got).map(|(m, g)| (m - g) * (m - g)).sum();
    let energy: f64 = mean.iter().map(|m| m * m).sum();
    let report: serde_json::Value = serde_json::from_str(merged.report.as_ref().unwrap()).unwrap();
    let dropped = report["dropped"].as_f64().unwrap();
    // f16 on the way in and out moves a product by about 1e-3 of itself.
    assert!((left / energy - dropped).abs() < 2e-3, "{} {dropped}", left / energy);
    assert!(dropped < 0.6 && report["updates"] == 4, "{report}");
    assert!(report["warnings"][0].as_str().unwrap().contains("expected at least 50"), "{report}");

    let home = fleet.home();
    let verdict = Verdict {
        who: "operator",
        artifact: hash,
        bytes: merged.result.unwrap().1,
        report: json!({"by": "operator"}),
    };
    let sequence = orders::approve(&home, round, &verdict, fleet.now_ms()).unwrap();
    assert_eq!((sequence, until(&fleet, round, State::Candidate).state), (1, State::Candidate));
    assert!(devices[0].check_in().unwrap().release.is_none(), "not of the lab");
    let mut lab = fleet.device(77);
    let enrolled = lab.enrol(fleet.link(1, true).token.as_deref()).unwrap();
    let offer = lab.check_in().unwrap().release.unwrap();
    let trust = Trust::decode(&enrolled.trust.statement.0).unwrap();
    let standing = Standing {
        trust: &trust,
        cohort: lab.cohort(),
        candidates: true,
        taken: 0,
        now_ms: fleet.now_ms(),
    };
    let signatures =
        sapwood_protocol::fleet::signatures::Signatures::decode(&offer.signatures.0).unwrap();
    let statement = standing.take(&offer.statement.0, &signatures).unwrap();
    assert_eq!((statement.role, statement.artifact), (Role::Candidate, hash));
    let file = lab.call("GET", &offer.url, b"").unwrap();
    assert_eq!((file.status, Hash::of(&file.body)), (200, hash));
    assert_eq!(file.body.len() as u64, statement.artifact_bytes);
    let mut head = lab.head("GET", &offer.url, b"", lab.time_ms);
    head.push(("range".into(), "bytes=100-".into()));
    let rest = lab.send("GET", &offer.url, &head, b"").unwrap();
    assert_eq!((rest.status, &rest.body[..]), (206, &file.body[100..]));
    head.push(("if-range".into(), format!("\"{}\"", Hash::of(b"another"))));
    let whole = lab.send("GET", &offer.url, &head, b"").unwrap();
    assert_eq!((whole.status, &whole.body), (200, &file.body), "another file was begun");
    let upload = format!("/v1/artifacts/{}", Hash::of(&files[0]));
    assert_eq!(
        lab.call("GET", &upload, b"").unwrap().refusal().error,
        Code::NotFound,
        "uploads are nobody's to read"
    );
    let seen = overview::overview(&home, fleet.now_ms()).unwrap();
    assert_eq!(seen["cohorts"][0]["rounds"][0]["state"], "candidate");
    assert_eq!(seen["cohorts"][0]["releases"][0]["role"], "candidate");
    assert_eq!(seen["devices"]["accepted"], 5);
}

#[test]
fn a_round_with_too_few_fails_and_its_updates_may_come_again() {
    let (fleet, mut devices) = fleet(3);
    let round = open(&fleet);
    devices[0].check_in().unwrap();
    let file = devices[0].update(NONE, 1);
    assert_eq!(devices[0].upload(round, &file).status, 201);
    fleet.wind(Duration::from_secs(24 * 3600));
    devices.iter_mut().for_each(|device| device.time_ms = fleet.now_ms());
    let failed = until(&fleet, round, State::Failed);
    assert!(failed.report.unwrap().contains("1 uploads came, expected at least 2"));
    let next = open(&fleet);
    assert_eq!(next, round + 1);
    assert_eq!(devices[0].check_in().unwrap().invite.unwrap().round, next);
    assert_eq!(devices[0].upload(next, &file).status, 201);
    assert_eq!(devices[0].upload(round, &file).status, 200, "it is there, in the other round");
}

#[test]
fn a_round_is_merged_again_without_a_device_and_the_same_again_is_the_same() {
    let (fleet, mut devices) = fleet(3);
    let (round, _) = given(&fleet, &mut devices, 0);
    let first = until(&fleet, round, State::Merged).result.unwrap();
    let home = &fleet.home();
    orders::redo(home, round, &[], fleet.now_ms()).unwrap();
    assert_eq!(until(&fleet, round, State::Merged).result.unwrap(), first, "the same bytes");
    let stranger = fleet.device(9).id;
    assert!(orders::redo(home, round, &[stranger], fleet.now_ms()).is_err());
    assert_eq!(until(&fleet, round, State::Merged).result.unwrap(), first);
    orders::redo(home, round, &[devices[1].id], fleet.now_ms()).unwrap();
    let without = until(&fleet, round, State::Merged);
    assert!(without.result.unwrap() != first && without.stored == 2);
    let error = orders::redo(home, round, &[devices[0].id], fleet.now_ms());
    error.unwrap();
    let failed = until(&fleet, round, State::Failed);
    assert!(failed.report.unwrap().contains("expected at least 2"));
}

/// What a device says of its tokens is no vote, and copies share one: three of ten that send the same and
/// say that they learned a million tokens each.
#[test]
fn a_cohort_may_have_its_rounds_merged_by_the_robust_rule() {
    let (fleet, mut devices) = fleet(10);
    let home = fleet.home();
    let policy = |change| orders::policy(&home.book, &cohort(&home), change, fleet.now_ms());
    policy("{\"merge\": \"robust\"}").unwrap();
    let round = open(&fleet);
    for (n, device) in devices.iter_mut().enumerate() {
        device.check_in().unwrap();
        let file = match n {
            0..7 => device.update(NONE, n as u64),
            _ => {
                let mut hostile = adapter(2, 0);
                hostile.values.iter_mut().for_each(|number| *number *= 1.0 + n as f32);
                let meta = common::meta(device.cohort(), NONE, 1_000_000);
                wire::encode(&hostile, &meta).unwrap()
            }
        };
        let reply = device.upload(round, &file);
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let merged = until(&fleet, round, State::Merged);
    let report = |round: &rounds::Round| -> serde_json::Value {
        serde_json::from_str(round.report.as_ref().unwrap()).unwrap()
    };
    let told = report(&merged);
    // The first device's own too points their way.
    assert_eq!((&told["merge"], &told["robust"]["twins"]), (&json!("robust"), &json!(4)), "{told}");
    let most = told["robust"]["most"].as_f64().unwrap();
    assert!((1.0..2.5).contains(&most), "{told}");
    let sql = "select detail from audit where what = 'round merged'";
    let line = Columns::of(home.book.read(sql, &[]).unwrap().remove(0)).text().unwrap();
    assert!(line.contains("10 updates, robust: 4 have twins"), "{line}");

    // A judge is given steps along the same mean, whatever the policy says meanwhile.
    let again = |eta| {
        let round = rounds::find(&home.book, round).unwrap().unwrap();
        fleet_server::work::merged(&home, &round, &cohort(&home), eta, || Ok(())).unwrap()
    };
    policy("{\"merge\": \"mean\"}").unwrap();
    assert_eq!(Hash::of(&again(1.0).file), merged.result.unwrap().0);
    // Merged again by an order, it is the policy's: there the million tokens count.
    orders::redo(&home, round, &[], fleet.now_ms()).unwrap();
    let mean = until(&fleet, round, State::Merged);
    assert_eq!((&report(&mean)["merge"], &report(&mean)["robust"]), (&json!("mean"), &json!(null)));
    assert!(mean.result != merged.result);
}

/// A learner's program that finds general text worse by so much at the whole step, and the cohort's
/// better by so much.
struct Learner {
    worse: f64,
    better: f64,
    whole: Option<f64>,
}

impl Score for Learner {
    fn score(&mut self, adapter: Option<&Adapter>, _: &Cohort) -> Result<Scores, JudgeError> {
        let Some(adapter) = adapter else { return Ok(Scores { general: 1.0, cohort: 2.0 }) };
        let norm = aggregate::norm(adapter).unwrap();
        let part = norm / *self.whole.get_or_insert(norm);
        Ok(Scores { general: 1.0 + self.worse * part, cohort: 2.0 - self.better * part })
    }
}

#[test]
fn a_judge_takes_the_largest_step_that_holds_or_refuses() {
    let (fleet, mut devices) = fleet(3);
    let home = fleet.home();
    let mut merged = |seed: u64| {
        let (round, _) = given(&fleet, &mut devices, seed);
        until(&fleet, round, State::Merged)
    };
    let judged = |round, worse, better| {
        let mut learner = Learner { worse, better, whole: None };
        judge::judge(&home, round, &mut learner, || fleet.now_ms()).unwrap()
    };
    let round = merged(0);
    assert_eq!(judged(round.id, 0.0, -0.1).sequence, None, "worse on the cohort's own text");
    assert_eq!(rounds::find(&home.book, round.id).unwrap().unwrap().state, State::Failed);
    let round = merged(0);
    let found = judged(round.id, 0.015, 0.1);
    assert_eq!((found.sequence, &found.report["eta"]), (Some(1), &json!(0.5)), "{}", found.report);
    let candidate = rounds::find(&home.book, round.id).unwrap().unwrap();
    let (whole, half) = (round.result.unwrap().0, candidate.result.unwrap().0);
    assert_eq!(candidate.state, State::Candidate);
    for (whole, half) in
        products(&global(&fleet, whole)).iter().zip(products(&global(&fleet, half)))
    {
        // f16 keeps eleven bits of a factor.
        assert!((whole / 2.0 - half).abs() < 2e-3, "{whole} {half}");
    }
    let again =
        judge::judge(&home, round.id, &mut Learner { worse: 0.0, better: 1.0, whole: None }, || 0);
    assert!(again.unwrap_err().to_string().contains("is candidate, expected merged"));
}

#[test]
fn what_nobody_needs_any_more_goes_and_what_is_named_stays() {
    let (fleet, mut devices) = fleet(2);
    let (round, files) = given(&fleet, &mut devices, 0);
    let (result, _) = until(&fleet, round, State::Merged).result.unwrap();
    let blobs = &fleet.home().blobs;
    let orphan = blobs.put(b"left by a server that died").unwrap();
    let name = orphan.to_string();
    let file =
        std::fs::File::open(fleet.folder().join("blobs").join(&name[..2]).join(&name)).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_millis(DAY_ONE_MS)).unwrap();
    let there = |hash| blobs.open_blob(hash).unwrap().is_some();
    let goes = |hash| {
        for _ in 0..3000 {
            // Each folder has its turn once an hour.
            fleet.wind(Duration::from_secs(7));
            std::thread::park_timeout(Duration::from_millis(12));
            if !there(hash) {
                return true;
            }
        }
        false
    };
    fleet.wind(Duration::from_secs(31 * 86_400));
    assert!(goes(orphan), "no row names it");
    assert!(files.iter().all(|file| goes(Hash::of(file))), "a month is over");
    assert!(there(result));
    assert_eq!(devices[0].upload(round, &files[0]).status, 401, "the clock went on");
    devices[0].time_ms = fleet.now_ms();
    assert_eq!(devices[0].upload(round, &files[0]).status, 200, "its row is there");
    let gone = orders::redo(&fleet.home(), round, &[], fleet.now_ms());
    assert!(gone.unwrap_err().to_string().contains("its uploads are gone"));
}

/// An adapter whose modules are wider.
fn wide() -> Adapter {
    let narrow = adapter(2, 1);
    let spec = Spec::placed(1..3, |layer, target| {
        let module = narrow.spec.module(layer, target)?;
        Some((Strength { rank: 2, alpha: 2.0 }, (module.fan_in + 1, module.fan_out)))
    });
    let values = vec![0.5; spec.len()];
    Adapter { spec, values }
}

#[test]
fn who_is_left_out_does_not_count_towards_the_fewest() {
    let (fleet, mut devices) = fleet(2);
    let round = open(&fleet);
    let cohort = devices[0].cohort();
    let files = [
        devices[0].update(NONE, 1),
        wire::encode(&wide(), &common::meta(cohort, NONE, 1000)).unwrap(),
    ];
    for (device, file) in devices.iter_mut().zip(&files) {
        device.check_in().unwrap();
        assert_eq!(device.upload(round, file).status, 201);
    }
    let report = until(&fleet, round, State::Failed).report.unwrap();
    assert!(report.contains("expected at least 2"), "{report}");
}

/// Goal: `G + mean`, for steps so small that rank 3 keeps nearly all of G.
#[test]
fn a_round_goes_on_from_the_adapter_that_its_devices_run() {
    let (fleet, mut devices) = fleet(2);
    let (_, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let sequence = promote(&fleet, 1, "release.key").unwrap();
    let installed = Some(Installed { sequence, artifact });
    devices.iter_mut().for_each(|device| device.installed = installed);
    let round = open(&fleet);
    for (n, device) in devices.iter_mut().enumerate() {
        device.check_in().unwrap();
        let mut small = adapter(2, 40 + n as u64);
        small.values.iter_mut().for_each(|value| *value *= 0.01);
        let meta = common::meta(device.cohort(), artifact, 1000);
        assert_eq!(device.upload(round, &wire::encode(&small, &meta).unwrap()).status, 201);
    }
    let (result, _) = until(&fleet, round, State::Merged).result.unwrap();
    let [before, after] = [(artifact, NONE), (result, artifact)]
        .map(|(hash, from)| products(&global_from(&fleet, hash, from)));
    let size = |all: &[f64]| all.iter().map(|x| x * x).sum::<f64>().sqrt();
    let moved: Vec<f64> = before.iter().zip(&after).map(|(b, a)| b - a).collect();
    assert!(size(&moved) < 0.02 * size(&before), "{} {}", size(&moved), size(&before));
}

#[test]
fn modules_that_most_devices_have_are_the_cohorts() {
    let (fleet, mut devices) = fleet(3);
    let round = open(&fleet);
    let cohort: CohortId = devices[0].cohort();
    // One device's base is another, whatever it says.
    let wide = wide();
    for (n, device) in devices.iter_mut().enumerate() {
        device.check_in().unwrap();
        let file = match n {
            1 => wire::encode(&wide, &common::meta(cohort, NONE, 1_000_000)).unwrap(),
            n => device.update(NONE, n as u64),
        };
        assert_eq!(device.upload(round, &file).status, 201);
    }
    until(&fleet, round, State::Merged);
    let home = fleet.home();
    let uploads = rounds::uploads(&home.book, round).unwrap();
    let dropped: Vec<_> =
        uploads.iter().filter(|upload| upload.why.is_some()).map(|upload| upload.device).collect();
    assert_eq!(dropped, [devices[1].id]);
    let shape = cohorts::find(&home.book, cohort).unwrap().unwrap().shape.unwrap();
    assert_eq!(shape, wire::shape(&adapter(2, 0).spec));
    assert!(aggregate::shares(&[], Clip::None, 1.0).is_err());
}

common::over_every_store!("what_nobody_needs_any_more_goes_and_what_is_named_stays");
