//! A fleet of rows behind the real server, for the check of its status page in a browser.
//!
//! Prints one line of JSON with the addresses of three servers, a full one, one without devices, and one
//! behind a token; ends when standard input does. What it shows is hostile on purpose.

use fleet_server::cohorts::Policy;
use fleet_server::home::{self, Home, Wish};
use fleet_server::ports::{Clock, SystemChance, SystemClock};
use fleet_server::serve::{self, Server, Settings};
use fleet_server::store::{Book, Statement, Value};
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

/// What would run if the page took text for markup.
const HOSTILE: &str = "<img src=x onerror=\"window.hostile=1\"><script>window.hostile=1</script>";
const TOKEN: &str = "a-token-for-one-check";
const DAY_MS: u64 = 24 * 3_600_000;

/// A name of bytes.
fn bytes<const N: usize>(byte: u8) -> Value {
    vec![byte; N].into()
}

fn start(
    folder: &Path,
    name: &str,
    fill: bool,
    token: Option<&str>,
) -> Result<Server, Box<dyn Error>> {
    let (folder, names) = (folder.join(name), ["localhost".to_owned()]);
    let now_ms = SystemClock::start().now_ms();
    let wish = Wish {
        folder: &folder,
        name: "<script>window.hostile=1</script>",
        tls: Some(&names),
        now_ms,
    };
    home::init(&wish, &SystemChance)?;
    if fill {
        Home::open(&folder)?.book.write(rows(now_ms))?;
    }
    // Nothing moves while it is looked at.
    let (operator_token, look) = (token.map(str::to_owned), Duration::from_secs(3600));
    Ok(serve::start(Settings { operator_token, look, ..Settings::new(&folder) })?)
}

/// Five devices, four rounds, three releases.
fn rows(now_ms: u64) -> Vec<Statement> {
    let mut rows = vec![Statement::one(
        "insert into cohort(id, base, first_layer, targets, label, sequence, shape, policy)
         values($1, $2, 2, 127, $3, 3, null, $4)",
        [bytes::<32>(1), bytes::<32>(7), HOSTILE.into(), Policy::default().write().into()],
    )];
    // State, when it was seen last, whether it is on trial.
    let devices = [(1_u64, 0, 1_u64), (1, 0, 0), (1, 9, 0), (0, 0, 0), (2, 1, 0)];
    for (at, (state, days, trial)) in devices.into_iter().enumerate() {
        rows.push(Statement::one(
            "insert into device(id, key, cohort, state, name, agent, label, lab, base, first_layer, targets,
             rank, enrolled, seen, counter, told, sequence, artifact, trial, generation, offered, offers,
             offered_first, offered_last)
             values($1, $2, $3, $4, $5, '', '', 0, $6, 2, 127, 8, 1, $7, 1, 0, 0, $8, $9, 1, 0, 0, 0, 0)",
            [
                bytes::<16>(at as u8),
                bytes::<32>(at as u8),
                bytes::<32>(1),
                state.into(),
                HOSTILE.into(),
                bytes::<32>(7),
                (now_ms - days * DAY_MS).into(),
                bytes::<32>(0),
                trial.into(),
            ],
        ));
    }
    let report = r#"{"updates": 12, "dropped": 0.123, "warnings": ["fewer than 50 devices"]}"#;
    for (id, state) in [(1_u64, 5_u64), (2, 6), (3, 3), (4, 1)] {
        rows.push(Statement::one(
            "insert into round(id, cohort, artifact, previous, state, quota, invited, stored, opened, deadline,
             seed, result, bytes, report) values($1, $2, $3, $3, $4, 20, 15, 12, $5, $6, $3, null, null, $7)",
            [
                id.into(),
                bytes::<32>(1),
                bytes::<32>(0),
                state.into(),
                (now_ms - DAY_MS).into(),
                (now_ms + DAY_MS).into(),
                report.into(),
            ],
        ));
    }
    for (sequence, state, stage) in [(1_u64, 6_u64, 5_u64), (2, 5, 2), (3, 2, 3)] {
        rows.push(Statement::one(
            "insert into release(cohort, sequence, role, artifact, bytes, statement, signatures, state, stage,
             since, expires, round, reason) values($1, $2, 2, $1, 1, $1, $1, $3, $4, $5, $6, 1, $7)",
            [
                bytes::<32>(1),
                sequence.into(),
                state.into(),
                stage.into(),
                now_ms.into(),
                (now_ms / 1000 + 86_400).into(),
                HOSTILE.into(),
            ],
        ));
        for device in 0..3_u8 {
            let worse = 0.1 * f64::from(device) - 0.3;
            rows.push(Statement::one(
                "insert into install(cohort, sequence, device, outcome, reason, before, after, at)
                 values($1, $2, $3, 1, '', 2.5, $4, 1)",
                [bytes::<32>(1), sequence.into(), bytes::<16>(device), (2.5 + worse).into()],
            ));
        }
        for (outcome, count) in [(1_u64, 17_u64), (2, 1), (3, 2)] {
            rows.push(Statement::one(
                "insert into tally(cohort, sequence, stage, outcome, shard, n) values($1, $2, $3, $4, 0, $5)",
                [bytes::<32>(1), sequence.into(), stage.into(), outcome.into(), count.into()],
            ));
        }
    }
    rows
}

fn main() -> Result<(), Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let servers = [
        start(place.path(), "full", true, None)?,
        start(place.path(), "empty", false, None)?,
        start(place.path(), "token", true, Some(TOKEN))?,
    ];
    let [full, empty, token] =
        servers.each_ref().map(|server| server.health.map(|health| health.to_string()));
    let addresses = serde_json::json!({"full": full, "empty": empty, "token": token});
    writeln!(io::stdout(), "{addresses}")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
