//! Every constraint met, unmet, unread and at its edges, and that no readings make a job flap.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

/// A clock that is wound by hand.
struct Wound {
    elapsed: Duration,
    now: Timestamp,
}

impl Clock for Wound {
    fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

fn second(at: u64) -> Wound {
    Wound { elapsed: Duration::from_secs(at), now: "2026-11-22T12:00:00Z".parse().unwrap() }
}

fn constraints(toml: &str) -> Constraints {
    Constraints::new(&Config::from_toml(toml).unwrap(), TimeZone::UTC)
}

/// Enough samples, nothing else going on.
const READY: Situation = Situation {
    samples: 64,
    sampled: None,
    ordered: false,
    paused: false,
    serving: 0,
    jobs_today: 0,
    own_load: 0.0,
    job_bytes: 0,
};

/// A device on which all is well.
fn well() -> Readings {
    Readings {
        celsius: Some(50.0),
        charging: Some(true),
        battery_percent: Some(90.0),
        watts: Some(5.0),
        joules: None,
        load: Some(0.1),
        processor_stall_percent: Some(0.0),
        memory_bytes: Some(4 << 30),
        memory_stall_percent: Some(0.0),
        storage_bytes: Some(8 << 30),
    }
}

fn state<'a>(look: &'a Look, name: &str) -> &'a ConstraintState {
    look.states.iter().find(|state| state.name == name).unwrap()
}

/// Looks once, one second after the program began.
fn once(toml: &str, readings: &Readings, situation: &Situation) -> Look {
    constraints(toml).look(readings, situation, &second(1))
}

#[test]
fn by_default_a_device_without_any_sensor_may_learn() {
    let look = once("", &Readings::default(), &READY);
    assert_eq!((&look.start, &look.go_on), (&Ok(()), &Ok(())));
    assert!(look.states.iter().all(|state| state.met && !state.why.is_empty()));
    let names: Vec<&str> = look.states.iter().map(|state| state.name).collect();
    let expected = [
        "battery-not-low",
        "storage-not-low",
        "temperature",
        "memory",
        "memory-stall",
        "samples",
        "not-paused",
    ];
    assert_eq!(names, expected, "what is not asked for is not listed");
}

#[test]
fn each_constraint_is_met_unmet_or_unread_as_its_table_says() {
    type Change = fn(&mut Readings);
    let (charging, idle) = ("[constraints]\ncharging = true", "[constraints]\nidle = true");
    // Name, configuration, a change to readings on which all is well, whether it is met then.
    let table: [(&str, &str, Change, bool); 23] = [
        ("charging", charging, |_| {}, true),
        ("charging", charging, |r| r.charging = Some(false), false),
        ("charging", charging, |r| r.charging = None, false),
        ("idle", idle, |r| r.load = Some(0.5), true),
        ("idle", idle, |r| r.load = Some(0.51), false),
        ("idle", idle, |r| r.load = None, false),
        ("battery-not-low", "", |r| r.battery_percent = Some(20.0), true),
        ("battery-not-low", "", |r| r.battery_percent = Some(19.9), false),
        ("battery-not-low", "", |r| r.battery_percent = None, true),
        ("storage-not-low", "", |r| r.storage_bytes = Some(256 << 20), true),
        ("storage-not-low", "", |r| r.storage_bytes = Some((256 << 20) - 1), false),
        ("storage-not-low", "", |r| r.storage_bytes = None, true),
        ("temperature", "", |r| r.celsius = Some(85.0), true),
        ("temperature", "", |r| r.celsius = Some(85.1), false),
        ("temperature", "", |r| r.celsius = None, true),
        ("memory", "", |r| r.memory_bytes = Some(64 << 20), true),
        ("memory", "", |r| r.memory_bytes = Some((64 << 20) - 1), false),
        ("memory", "", |r| r.memory_bytes = None, true),
        ("memory-stall", "", |r| r.memory_stall_percent = Some(20.0), true),
        ("memory-stall", "", |r| r.memory_stall_percent = Some(20.1), false),
        ("memory-stall", "", |r| r.memory_stall_percent = None, true),
        ("windows", "[constraints]\nwindows = [\"11:00-13:00\"]", |_| {}, true),
        ("windows", "[constraints]\nwindows = [\"22:00-06:00\", \"13:00-14:00\"]", |_| {}, false),
    ];
    for (name, toml, change, met) in table {
        let mut readings = well();
        change(&mut readings);
        let look = once(toml, &readings, &READY);
        let found = state(&look, name);
        assert_eq!(found.met, met, "{name}: {}", found.why);
        // All of these stop a job that runs, too.
        assert_eq!((look.start.is_ok(), look.go_on.is_ok()), (met, met), "{name}");
        assert!(met || look.start.unwrap_err().starts_with(&format!("{name}: ")), "{name}");
    }
}

#[test]
fn what_is_only_asked_for_at_the_start_lets_a_job_go_on() {
    let table = [
        ("samples", Situation { samples: 63, ..READY }),
        ("jobs-per-day", Situation { jobs_today: 3, ..READY }),
        ("memory-for-job", Situation { job_bytes: 4 << 30, ..READY }),
    ];
    for (name, situation) in table {
        let look = once("[budget]\njobs-per-day = 3", &well(), &situation);
        assert!(look.start.unwrap_err().starts_with(name) && look.go_on.is_ok(), "{name}");
    }
    assert!(once("[budget]\njobs-per-day = 3", &well(), &READY).start.is_ok());
    let sampled = Some("a stopped job waits to go on");
    let resumes = Situation { samples: 0, sampled, ..READY };
    assert!(once("", &well(), &resumes).start.is_ok(), "a stopped job has its samples");
}

#[test]
fn a_job_must_leave_more_memory_than_the_bound_that_would_stop_it() {
    let fits = Situation { job_bytes: (4 << 30) - (80 << 20), ..READY };
    assert!(once("", &well(), &fits).start.is_ok());
    let bursts = Situation { job_bytes: fits.job_bytes + 1, ..READY };
    assert!(once("", &well(), &bursts).start.is_err());
    let unread = Readings { memory_bytes: None, ..well() };
    assert!(once("", &unread, &bursts).start.is_ok());
}

#[test]
fn an_order_skips_taste_and_never_what_protects() {
    let toml = "[constraints]\ncharging = true\nidle = true\nwindows = [\"22:00-06:00\"]\n\
                [budget]\njobs-per-day = 1";
    let busy = Readings { charging: Some(false), load: Some(9.0), ..well() };
    let order = Situation { ordered: true, samples: 1, jobs_today: 9, serving: 2, ..READY };
    let look = once(toml, &busy, &order);
    assert_eq!((&look.start, &look.go_on), (&Ok(()), &Ok(())));
    assert!(!state(&look, "charging").met, "what is skipped is still shown as it is");
    let without = once(toml, &busy, &Situation { ordered: false, ..order });
    let why = without.start.unwrap_err();
    let told = ["charging", "idle", "windows", "samples", "jobs-per-day"];
    assert!(told.iter().all(|name| why.contains(&format!("{name}: "))), "{why}");

    let dangers: [(&str, Readings); 5] = [
        ("temperature", Readings { celsius: Some(99.0), ..busy.clone() }),
        ("battery-not-low", Readings { battery_percent: Some(3.0), ..busy.clone() }),
        ("storage-not-low", Readings { storage_bytes: Some(0), ..busy.clone() }),
        ("memory", Readings { memory_bytes: Some(0), ..busy.clone() }),
        ("memory-stall", Readings { memory_stall_percent: Some(99.0), ..busy }),
    ];
    for (name, readings) in dangers {
        let look = once(toml, &readings, &order);
        assert!(look.start.unwrap_err().starts_with(name), "{name}");
        assert!(look.go_on.unwrap_err().starts_with(name), "{name}");
    }
    let paused = Situation { paused: true, ..order };
    assert!(once(toml, &well(), &paused).start.unwrap_err().contains("resume"));
    let nothing = Situation { samples: 0, ..order };
    assert!(once(toml, &well(), &nothing).start.unwrap_err().starts_with("samples"));
}

#[test]
fn heat_stops_above_hot_and_lets_go_at_cool() {
    let mut constraints = constraints("");
    // Second, degrees, may go on.
    let table = [
        (0, 80.0, true),
        (10, 85.0, true),
        (20, 85.1, false),
        (70, 84.0, false),
        (80, 75.1, false),
        (90, 75.0, true),
        (100, 85.0, true),
        (110, 90.0, false),
        (120, 70.0, false),
        (139, 70.0, false),
        (140, 70.0, true),
    ];
    for (at, celsius, expected) in table {
        let readings = Readings { celsius: Some(celsius), ..well() };
        let look = constraints.look(&readings, &READY, &second(at));
        assert_eq!(look.go_on.is_ok(), expected, "{celsius} C at {at} s: {look:?}");
    }
}

#[test]
fn a_sensor_that_falls_silent_leaves_what_it_said_last() {
    let mut constraints = constraints("");
    let silent = Readings { celsius: None, ..well() };
    assert!(constraints.look(&silent, &READY, &second(0)).go_on.is_ok());
    let hot = Readings { celsius: Some(90.0), ..well() };
    assert!(constraints.look(&hot, &READY, &second(1)).go_on.is_err());
    let look = constraints.look(&silent, &READY, &second(9_999));
    assert!(look.go_on.unwrap_err().contains("cannot be read any more"));
    assert!(constraints.look(&well(), &READY, &second(10_000)).go_on.is_ok());
}

#[test]
fn the_other_bounds_have_their_margins_too() {
    type Set = fn(&mut Readings, f64);
    // A failing value, one short of coming back, and one that comes back.
    let table: [(&str, Set, [f64; 3]); 4] = [
        ("battery-not-low", |r, v| r.battery_percent = Some(v as f32), [19.0, 24.9, 25.0]),
        (
            "storage-not-low",
            |r, v| r.storage_bytes = Some((v * 1048576.0) as u64),
            [255.0, 287.0, 288.0],
        ),
        ("memory", |r, v| r.memory_bytes = Some((v * 1048576.0) as u64), [63.0, 79.0, 80.0]),
        ("memory-stall", |r, v| r.memory_stall_percent = Some(v as f32), [21.0, 10.1, 10.0]),
    ];
    for (name, set, [fails, short, back]) in table {
        let mut constraints = constraints("");
        let mut met = |at, value| {
            let mut readings = well();
            set(&mut readings, value);
            state(&constraints.look(&readings, &READY, &second(at)), name).met
        };
        assert!(met(0, short), "{name}: never lost, so no margin is asked for");
        let seen = [met(1, fails), met(50, short), met(60, back), met(61, short)];
        assert_eq!(seen, [false, false, true, true], "{name}");
    }
}

#[test]
fn a_job_is_not_stopped_by_its_own_load() {
    let mut constraints = constraints("[constraints]\nidle = true");
    let mut look = |at, load, own_load, serving| {
        let readings = Readings { load: Some(load), ..well() };
        let situation = Situation { own_load, serving, ..READY };
        constraints.look(&readings, &situation, &second(at))
    };
    assert!(look(0, 0.4, 0.0, 0).start.is_ok());
    assert!(look(60, 1.4, 1.0, 0).go_on.is_ok(), "it brought one of these itself");
    assert!(look(61, 1.74, 1.0, 0).go_on.is_ok(), "what runs bears a quarter more");
    assert!(look(62, 1.76, 1.0, 0).go_on.is_err());
    assert!(look(80, 1.0, 0.0, 0).start.is_err(), "its load fades slowly from the average");
    assert!(look(109, 0.4, 0.0, 0).start.is_err(), "half a minute after the last of it");
    assert!(look(110, 0.4, 0.0, 0).start.is_ok());
    assert!(look(111, 0.4, 1.0, 1).go_on.is_err(), "somebody waits for a text");
    assert!(look(140, 0.4, 0.0, 0).start.unwrap_err().contains("1 s more"));
    assert!(look(141, 0.4, 0.0, 0).start.is_ok());
}

#[test]
fn windows_follow_the_clock_on_the_wall_through_both_changes_of_a_year() {
    // Central Europe's rule, in full, so that no file of time zones is needed.
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let config = "[constraints]\nwindows = [\"02:00-03:00\"]";
    let config = Config::from_toml(config).unwrap();
    let mut constraints = Constraints::new(&config, zone);
    let table = [
        // 29 March 2026: 02:00 to 03:00 is left out.
        ("2026-03-28T01:00:00Z", true),
        ("2026-03-29T00:59:59Z", false),
        ("2026-03-29T01:00:00Z", false),
        ("2026-03-30T00:30:00Z", true),
        // 25 October 2026: it occurs twice.
        ("2026-10-25T00:00:00Z", true),
        ("2026-10-25T01:59:59Z", true),
        ("2026-10-25T02:00:00Z", false),
        ("2026-10-26T01:30:00Z", true),
    ];
    for (now, met) in table {
        let clock = Wound { elapsed: Duration::ZERO, now: now.parse().unwrap() };
        let look = constraints.look(&well(), &READY, &clock);
        assert_eq!(state(&look, "windows").met, met, "{now}: {}", state(&look, "windows").why);
    }
}

/// Chance enough for a walk, always the same: SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A reading near the bounds, so that they are often crossed, or none.
fn near(chance: &mut Chance, low: f32, high: f32) -> Option<f32> {
    let part = chance.below(1_001) as f32 / 1_000.0;
    (chance.below(10) > 0).then_some(low + part * (high - low))
}

fn any_readings(chance: &mut Chance) -> Readings {
    let mebi = |value: Option<f32>| value.map(|value| (value * 1_048_576.0) as u64);
    Readings {
        celsius: near(chance, 70.0, 90.0),
        charging: near(chance, 0.0, 1.0).map(|value| value > 0.3),
        battery_percent: near(chance, 15.0, 30.0),
        load: near(chance, 0.0, 1.5),
        memory_bytes: mebi(near(chance, 50.0, 100.0)),
        memory_stall_percent: near(chance, 0.0, 25.0),
        storage_bytes: mebi(near(chance, 240.0, 300.0)),
        ..Readings::default()
    }
}

#[test]
fn no_readings_make_a_job_stop_and_start_faster_than_the_rest() {
    let asked = "[constraints]\ncharging = true\nidle = true";
    let alone =
        |key: &str| format!("[constraints]\nbattery-not-low = {key}\nstorage-not-low = false");
    for (seed, toml) in [asked.to_owned(), alone("true"), alone("false")].iter().enumerate() {
        let mut chance = Chance(seed as u64);
        let mut constraints = constraints(toml);
        let (mut at, mut learning, mut starts) = (0, false, 0);
        let mut lost: Vec<(&str, u64)> = Vec::new();
        // Quiet spells between bursts of noise, so that jobs do start.
        for step in 0..50_000u32 {
            at += chance.below(4);
            let noisy = step % 60 < 20;
            let readings = if noisy { any_readings(&mut chance) } else { well() };
            let serving = u64::from(noisy && chance.below(5) == 0);
            let own_load = if learning { 0.5 } else { 0.0 };
            let situation = Situation { serving, own_load, ..READY };
            let look = constraints.look(&readings, &situation, &second(at));
            for state in &look.states {
                let held = lost.iter().position(|(name, _)| *name == state.name);
                match (state.met, held) {
                    (false, None) => lost.push((state.name, at)),
                    (true, Some(place)) => {
                        let (_, since) = lost.swap_remove(place);
                        assert!(
                            at >= since + REST.as_secs(),
                            "{} at {at} s: {}",
                            state.name,
                            state.why
                        );
                    }
                    _ => {}
                }
            }
            let before = learning;
            learning = if learning { look.go_on.is_ok() } else { look.start.is_ok() };
            starts += u32::from(learning && !before);
        }
        assert!(starts > 100, "seed {seed}: {starts} starts, too few to prove anything");
        // Every stop had a constraint lost, so the rest bounds the starts as well.
        assert!(u64::from(starts) <= at / REST.as_secs() + 1, "seed {seed}: {starts} in {at} s");
    }
}
