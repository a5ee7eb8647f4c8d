//! Results on standard output: JSON for programs, a table for people.
//!
//! - Invariant: text that came from elsewhere reaches the terminal without control characters.

#[cfg(feature = "engine")]
use firmware_host::status::{Ending, JobReport};
use serde_json::Value;
use std::io::{self, Write};

/// Jobs of the table.
const JOBS_SHOWN: usize = 8;

/// Text for people.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let plain = text.replace(|letter: char| letter.is_control() && letter != '\n', " ");
    Ok(writeln!(io::stdout(), "{}", plain.trim_end())?)
}

/// A result: JSON for programs, else `text`.
pub(crate) fn result(json: bool, value: &Value, text: &str) -> anyhow::Result<()> {
    if json { Ok(writeln!(io::stdout(), "{value}")?) } else { say(text) }
}

/// How a run ended.
///
/// # Errors
/// That it failed, with its reason.
#[cfg(feature = "engine")]
pub(crate) fn run(report: &JobReport, json: bool) -> anyhow::Result<()> {
    let value = serde_json::to_value(report)?;
    result(json, &value, &job(&value))?;
    anyhow::ensure!(report.ending != Ending::Failed, "job {} failed", report.number);
    Ok(())
}

/// The status for people; a key that is not there has no line.
pub(crate) fn table(value: &Value) -> String {
    let mut rows = vec![row("phase", Some(phase(value)))];
    rows.push(row("model", text(value, "/model").map(String::from)));
    let generation = whole(value, "/serving/generation").map(|number| number.to_string());
    rows.push(row("generation", Some(generation.unwrap_or("none: the bare base".into()))));
    rows.push(row("global", global(value)));
    rows.push(row("uptime", real(value, "/uptime_seconds").map(span)));
    let damage = list(value, "/damage").iter().filter_map(Value::as_str);
    rows.extend(damage.map(|line| row("damage", Some(line.to_owned()))));
    rows.push(row("inbox", inbox(value)));
    rows.push(row("reservoir", reservoir(value)));
    rows.push(row("serving", serving(value)));
    rows.push(row("memory", real(value, "/resident_bytes").map(bytes)));
    if value["fleet"].is_object() {
        rows.push(row("fleet", Some(member(&value["fleet"]))));
    }
    for constraint in list(value, "/constraints") {
        let met = if constraint["met"] == true { "holds" } else { "does not hold" };
        let name = text(constraint, "/name").unwrap_or("?");
        let why = text(constraint, "/why").unwrap_or_default();
        rows.push(row("constraint", Some(format!("{name} {met}: {why}"))));
    }
    let jobs = list(value, "/jobs");
    let last = jobs.get(jobs.len().saturating_sub(JOBS_SHOWN)..).unwrap_or_default();
    rows.extend(last.iter().map(|report| row("job", Some(job(report)))));
    rows.concat()
}

/// The fleet for people.
pub(crate) fn fleet(value: &Value) -> String {
    if !value.is_object() {
        return "this device is in no fleet".into();
    }
    let word = |name: &str| text(value, &format!("/{name}")).map(String::from);
    let pair =
        |name: &str| match (real(value, &format!("/{name}/0")), real(value, &format!("/{name}/1")))
        {
            (Some(some), Some(all)) => Some(format!("{} of {}", bytes(some), bytes(all))),
            _ => None,
        };
    let number = |name: &str| whole(value, &format!("/{name}")).map(|number| number.to_string());
    let trial = if value["trial"] == true { ", on trial" } else { "" };
    [
        row("state", Some(member(value))),
        row("fleet", word("fleet")),
        row("server", word("server")),
        row("device", word("device")),
        row("name", word("name")),
        row("label", word("label")),
        row("installed", number("installed").map(|sequence| format!("sequence {sequence}{trial}"))),
        row(
            "under way",
            number("pending").map(|sequence| {
                format!("sequence {sequence}, {}", pair("pending_bytes").unwrap_or_default())
            }),
        ),
        row("last", word("last_check_in")),
        row("next", word("next_check_in")),
        row("sent today", pair("up_today")),
        row("came today", pair("down_today")),
    ]
    .concat()
}

/// A device in its fleet, in a line.
fn member(fleet: &Value) -> String {
    let state = text(fleet, "/state").unwrap_or("?");
    let installed = whole(fleet, "/installed").map(|sequence| format!(", sequence {sequence}"));
    let why = text(fleet, "/waiting_for").filter(|why| !why.is_empty());
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    format!("{state}{}{why}", installed.unwrap_or_default())
}

fn row(name: &str, value: Option<String>) -> String {
    // A line break from elsewhere must not look like a row of ours.
    let value = value.map(|value| value.replace(char::is_control, " "));
    value.map(|value| format!("{name:<12}{value}\n")).unwrap_or_default()
}

fn phase(value: &Value) -> String {
    // The program itself gives none.
    let reason = text(value, "/reason");
    if value["running"] == false || reason.is_some() {
        let reason = reason.unwrap_or("no program runs");
        let paused = if value["paused"] == true { "; paused until `resume`" } else { "" };
        return format!("{reason}{paused}");
    }
    let phase = text(value, "/phase").unwrap_or("?").to_owned();
    match (text(value, "/waiting_for").filter(|why| !why.is_empty()), list(value, "/steps").last())
    {
        (Some(why), _) => format!("{phase}: {why}"),
        (None, Some(point)) if phase == "learning" => {
            let loss = real(point, "/loss").map(|loss| format!(", loss {loss:.3}"));
            format!("learning: step {}{}", point["step"], loss.unwrap_or_default())
        }
        _ => phase,
    }
}

fn inbox(value: &Value) -> Option<String> {
    let samples = whole(value, "/inbox/samples")?;
    let size = real(value, "/inbox/bytes").map(bytes)?;
    let most = real(value, "/inbox/bytes_max").map(bytes)?;
    let mut line = format!("{samples} samples wait, {size} of {most}");
    for name in [
        "aside",
        "aside_dropped",
        "duplicates",
        "refused",
        "frames_dropped",
        "damaged_bytes",
        "lost_samples",
    ] {
        match whole(value, &format!("/inbox/{name}")) {
            None | Some(0) => {}
            Some(count) => line += &format!(", {count} {}", name.replace('_', " ")),
        }
    }
    Some(line)
}

fn global(value: &Value) -> Option<String> {
    let (sequence, ranks) = (whole(value, "/global/sequence")?, whole(value, "/global/ranks")?);
    let artifact: String = text(value, "/global/artifact")?.chars().take(16).collect();
    let trial = whole(value, "/trial/tries_left").zip(whole(value, "/trial/parent"));
    let trial = trial.map(|(tries, parent)| {
        format!(", on trial: {tries} more starts, else generation {parent} returns")
    });
    let trial = trial.unwrap_or_default();
    let fleet = text(value, "/global/fleet").map(|fleet| format!(" of fleet {fleet}"));
    let fleet = fleet.unwrap_or_default();
    Some(format!("sequence {sequence}{fleet}, {artifact}, rank {ranks}{trial}"))
}

fn reservoir(value: &Value) -> Option<String> {
    let number = |name| whole(value, &format!("/reservoir/{name}"));
    let (held, capacity, seen) = (number("held")?, number("capacity")?, number("seen")?);
    Some(format!("{held} of {capacity} blocks held, {seen} ever offered"))
}

fn serving(value: &Value) -> Option<String> {
    let number = |name| whole(value, &format!("/serving/{name}"));
    let (requests, active, refused) = (number("requests")?, number("active")?, number("refused")?);
    let tokens = number("tokens")?;
    Some(format!(
        "{requests} requests answered, {active} under way, {refused} refused, {tokens} tokens"
    ))
}

fn job(report: &Value) -> String {
    let word = |name| text(report, name).unwrap_or("?");
    let (number, ending) = (&report["number"], word("/ending"));
    let steps = match text(report, "/kind") {
        Some("install") => "install of a global adapter".to_owned(),
        _ => format!("{} of {} steps", report["steps"][0], report["steps"][1]),
    };
    let mut line = format!("{number}, {}: {ending}, {steps}", word("/started"));
    if let Some(seconds) = real(report, "/seconds") {
        line += &format!(" in {}", span(seconds));
    }
    for change in list(report, "/changes") {
        if let (Some(before), Some(after)) = (real(change, "/before"), real(change, "/after")) {
            let name = text(change, "/text").unwrap_or("?");
            line += &format!(", {name} {before:.3} -> {after:.3} bits/byte");
        }
    }
    format!("{line}; {}", word("/reason"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

fn whole(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_u64()
}

fn real(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer)?.as_f64()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn span(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3_600.0),
    }
}

fn bytes(count: f64) -> String {
    match count {
        count if count < 1024.0 => format!("{count:.0} B"),
        count if count < 1_048_576.0 => format!("{:.1} KiB", count / 1024.0),
        count if count < 1_073_741_824.0 => format!("{:.1} MiB", count / 1_048_576.0),
        count => format!("{:.2} GiB", count / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use firmware_host::status::{
        Change, Ending, GlobalStatus, JobKind, JobReport, Phase, Status, TrialStatus,
    };
    use serde_json::json;

    fn report() -> JobReport {
        JobReport {
            number: 7,
            kind: JobKind::Learn,
            started: "2026-01-01T00:00:00Z".into(),
            seconds: 61.0,
            joules: None,
            bytes_written: 1,
            samples: 64,
            steps: [40, 40],
            ending: Ending::Kept,
            reason: "new text is better\nand\u{1b}[2J".into(),
            generation: Some(3),
            changes: vec![Change { text: "new".into(), before: 1.92, after: 1.8 }],
        }
    }

    #[test]
    fn a_person_reads_what_the_program_says() {
        let status = Status {
            model: "base".into(),
            phase: Phase::Waiting,
            waiting_for: "12 of 64 samples".into(),
            jobs: vec![report(), JobReport { kind: JobKind::Install, ..report() }],
            global: Some(GlobalStatus {
                sequence: 7,
                fleet: Some("05".repeat(16)),
                artifact: "ab".repeat(32),
                ranks: 16,
            }),
            trial: Some(TrialStatus { parent: 4, tries_left: 2 }),
            ..Status::default()
        };
        let table = table(&serde_json::to_value(&status).unwrap());
        for line in [
            "phase       waiting: 12 of 64 samples\n",
            "generation  none: the bare base\n",
            "global      sequence 7 of fleet 05050505050505050505050505050505, abababababababab, rank 16, on trial: 2 more starts, else generation 4",
            "kept, install of a global adapter in 61 s",
            "inbox       0 samples wait, 0 B of 0 B\n",
            "kept, 40 of 40 steps in 61 s, new 1.920 -> 1.800 bits/byte; new text is better",
        ] {
            assert!(table.contains(line), "{line:?} is not in\n{table}");
        }
        assert!(!table.replace('\n', "").contains(char::is_control), "{table}");
    }

    #[test]
    fn a_fleet_is_shown_in_lines_and_none_in_words() {
        let fleet = json!({
            "state": "accepted", "fleet": "0102", "server": "h:1", "device": "07", "name": "kiosk\n",
            "label": null, "installed": 7, "trial": true, "waiting_for": "a download waits", "pending": 8,
            "pending_bytes": [512, 2048], "up_today": [0, 100_000_000], "down_today": null, "check_ins": [3, 1],
        });
        let lines = super::fleet(&fleet);
        for line in [
            "state       accepted, sequence 7: a download waits\n",
            "under way   sequence 8, 512 B of 2.0 KiB\n",
            "installed   sequence 7, on trial\n",
            "sent today  0 B of 95.4 MiB\n",
        ] {
            assert!(lines.contains(line), "{line:?} is not in\n{lines}");
        }
        assert!(table(&json!({ "fleet": fleet })).contains("fleet       accepted, sequence 7"));
        assert_eq!(super::fleet(&Value::Null), "this device is in no fleet");
    }

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_is_known() {
        for value in [json!({}), json!([1]), json!({ "jobs": [1, {}], "inbox": "x", "steps": 3 })] {
            assert!(table(&value).starts_with("phase"));
        }
    }
}
