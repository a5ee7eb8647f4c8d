//! The simulator's program: a fleet of devices that do not exist, against a server that does.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use fleet_server::aggregate::attacks::Attack;
use fleet_server::home::Stores;
use fleet_server::store::has_password;
use fleet_sim::run::{self, Orders, Scenario};
use fleet_sim::servers::{self, Programs};
use fleet_sim::shape::{SHAPES, Shape};
use fleet_sim::time::Time;
use fleet_sim::weather::Weather;
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::told;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

const MINUTE_MS: u64 = 60_000;

/// Simulates devices against a real fleet server.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs devices and writes a report.
    Run(Box<Run>),
    /// Serves a fleet's folder in simulated time; `run` starts it.
    #[command(hide = true)]
    Serve(Serve),
}

/// What a run is asked for.
#[derive(clap::Args)]
struct Run {
    /// Devices.
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    devices: u32,
    /// Of them, devices of the lab.
    #[arg(long, default_value = "2")]
    lab: u32,
    /// Minutes between two check-ins of a device.
    #[arg(long, default_value = "15", value_parser = clap::value_parser!(u64).range(1..=1440))]
    every: u64,
    /// Simulated minutes that it lasts; rounds and the drill may end it sooner.
    #[arg(long, default_value = "30")]
    minutes: u64,
    /// How many times as fast as real time.
    #[arg(long, default_value = "1", value_parser = speed)]
    speed: f64,
    /// Devices that enrol in a real second.
    #[arg(long, default_value = "200", value_parser = rate)]
    enrol: f64,
    /// Real seconds at the beginning whose calls are in no summary; as long as all enrol, when left out.
    #[arg(long)]
    warm: Option<u32>,
    /// What is learned: tiny, small, or llama with 1.7 million numbers.
    #[arg(long, default_value = "tiny", value_parser = shape)]
    shape: Shape,
    /// Rounds that the operator plays, one after the other; each release goes to all at once.
    #[arg(long, default_value = "0")]
    rounds: u64,
    /// Releases go by their stages.
    #[arg(long)]
    stages: bool,
    /// Play a bad release; the operator takes it back so many simulated minutes after it was paused.
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "60")]
    drill: Option<u64>,
    /// What else the new fleet's policy says, JSON: quota, min_devices, merge, stage_h.
    #[arg(long, default_value = "{}", conflicts_with = "link")]
    policy: String,
    /// Simulated minutes of a trial.
    #[arg(long, default_value = "10")]
    trial: u64,
    /// Devices are off for ten hours of a day, each in a zone of its own.
    #[arg(long)]
    day_night: bool,
    /// Share of devices on slow lines.
    #[arg(long, default_value = "0", value_parser = share)]
    slow: f64,
    /// What a slow line sends, as 8KB/s.
    #[arg(long, default_value = "8KB/s", value_parser = uplink)]
    uplink: u64,
    /// Share of devices whose clock begins at 1970.
    #[arg(long, default_value = "0", value_parser = share)]
    old_clocks: f64,
    /// Share of calls in which the power goes.
    #[arg(long, default_value = "0", value_parser = share)]
    cuts: f64,
    /// Devices whose folder, key included, runs on another machine too.
    #[arg(long, default_value = "0")]
    copied: u32,
    /// Share of devices that send an attack.
    #[arg(long, default_value = "0", value_parser = share)]
    hostile: f64,
    /// Which: flip, x100, flip-x10, noise, zeros, minus-mean, little, direction, noisy-direction.
    #[arg(long, default_value = "flip", value_parser = attack)]
    attack: Attack,
    /// Share of devices for which the drill's release is worse.
    #[arg(long, default_value = "0.05", value_parser = share)]
    worse: f64,
    /// Share of installs that a device's own gate declines.
    #[arg(long, default_value = "0", value_parser = share)]
    declined: f64,
    /// Of everything that is drawn.
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Real seconds of a row of the report.
    #[arg(long, default_value = "60", value_parser = rate)]
    row: f64,
    /// A fleet that is there, by its enrolment link; one for each replica.
    #[arg(long, value_name = "LINK")]
    link: Vec<Link>,
    /// The folder of that fleet, on this machine: for the operator's part.
    #[arg(long, value_name = "DIR", requires = "link")]
    folder: Option<PathBuf>,
    /// Where the new fleet's book is, as postgres://USER@HOST/NAME; an empty database.
    #[arg(long, value_name = "URL", conflicts_with = "link")]
    database: Option<String>,
    /// Servers of the new fleet, which have one database.
    #[arg(long, default_value = "1", conflicts_with = "link", value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// The server's program, where it does not lie beside this one.
    #[arg(long, value_name = "FILE", conflicts_with = "link")]
    server: Option<PathBuf>,
    /// Where the report goes.
    #[arg(long, value_name = "DIR", default_value = "fleet-sim")]
    out: PathBuf,
}

#[derive(clap::Args)]
struct Serve {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    start: u64,
    #[arg(long, value_parser = speed)]
    speed: f64,
}

fn within(text: &str, min: f64, max: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("expected a number, got {text:?}"))?;
    let fits = (min..=max).contains(&number);
    if fits { Ok(number) } else { Err(format!("expected {min} to {max}, got {number}")) }
}

fn speed(text: &str) -> Result<f64, String> {
    within(text, 1.0, 100_000.0)
}

fn share(text: &str) -> Result<f64, String> {
    within(text, 0.0, 1.0)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.1, 1e6)
}

fn shape(text: &str) -> Result<Shape, String> {
    let names = SHAPES.map(|shape| shape.name).join(", ");
    Shape::from_name(text).ok_or_else(|| format!("expected one of {names}"))
}

fn attack(text: &str) -> Result<Attack, String> {
    let names = Attack::ALL.map(Attack::name).join(", ");
    Attack::from_name(text).ok_or_else(|| format!("expected one of {names}"))
}

fn uplink(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected bytes a second as 8KB/s, got {text:?}");
    let number = text.strip_suffix("KB/s").ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    if (1..=1_000_000).contains(&number) { Ok(1000 * number) } else { Err(wrong()) }
}

/// The command line as a report may show it: without the token with which devices enrol.
fn asked(arguments: impl Iterator<Item = String>) -> String {
    let shown = |argument: String| match argument.split_once("token=") {
        Some((before, rest)) => {
            let after = rest.find('&').and_then(|end| rest.get(end..)).unwrap_or_default();
            format!("{before}token=...{after}")
        }
        None => argument,
    };
    arguments.map(shown).collect::<Vec<_>>().join(" ")
}

impl Run {
    fn scenario(&self) -> Result<Scenario> {
        ensure!(
            !self.database.as_deref().is_some_and(has_password),
            "a password in an argument is seen by all, expected PGPASSWORD"
        );
        ensure!(self.lab <= self.devices, "--lab {} of --devices {}", self.lab, self.devices);
        ensure!(
            self.copied <= self.devices,
            "--copied {} of --devices {}",
            self.copied,
            self.devices
        );
        ensure!(
            self.hostile == 0.0 || self.shape.is_attackable(),
            "--shape {} is too large for attacks: expected tiny or small",
            self.shape.name
        );
        ensure!(
            self.replicas == 1 || self.database.is_some(),
            "--replicas {} need a --database",
            self.replicas
        );
        let own = self.link.is_empty();
        let needs = self.rounds > 0 || self.drill.is_some();
        ensure!(
            own || !needs || self.folder.is_some(),
            "rounds of a fleet that is there need its --folder"
        );
        let every_ms = self.every * MINUTE_MS;
        let hasty = !self.stages;
        Ok(Scenario {
            asked: asked(std::env::args()),
            devices: self.devices,
            lab: self.lab,
            copied: self.copied,
            policy: if own { self.policy()? } else { String::new() },
            first_ms: every_ms,
            warm_s: self.warm.map_or(f64::from(self.devices) / self.enrol + 5.0, f64::from),
            every_ms: (!own).then_some(every_ms),
            minutes: self.minutes,
            speed: self.speed,
            enrol_per_s: self.enrol,
            shape: self.shape,
            weather: self.weather(),
            orders: match self.drill {
                Some(minutes) => Orders::Drill { react_ms: minutes * MINUTE_MS },
                None if self.rounds > 0 => Orders::Rounds { count: self.rounds, hasty },
                None => Orders::Nothing,
            },
            trial_ms: self.trial * MINUTE_MS,
            seed: self.seed,
            row_s: self.row,
            links: self.link.clone(),
            folder: self.folder.clone(),
            stores: Stores { database: self.database.clone(), blobs: None }.checked()?,
            replicas: self.replicas,
            out: self.out.clone(),
        })
    }

    fn policy(&self) -> Result<String> {
        let said: Map<String, Value> = serde_json::from_str(&self.policy).context("--policy")?;
        let mut policy = Map::new();
        policy.insert("check_in_s".into(), (self.every * 60).into());
        policy.extend(said);
        Ok(Value::from(policy).to_string())
    }

    fn weather(&self) -> Weather {
        Weather {
            nights: self.day_night,
            slow: self.slow,
            uplink: self.uplink,
            old_clocks: self.old_clocks,
            cuts: self.cuts,
            hostile: self.hostile,
            attack: self.attack,
            worse: self.worse,
            declined: self.declined,
        }
    }

    fn run(&self) -> Result<()> {
        let own = std::env::current_exe().context("cannot tell where this program lies")?;
        let beside = own.with_file_name("fleet-server");
        let server = self.server.clone().unwrap_or(beside);
        ensure!(
            self.speed != 1.0 || !self.link.is_empty() || server.is_file(),
            "{} is not there: expected it beside this program, or named by --server",
            server.display()
        );
        let report = run::run(&self.scenario()?, &Programs { server, own })?;
        let page = self.out.join("report.html");
        Ok(writeln!(std::io::stdout(), "{:#}\n{}", report.summary(), page.display())?)
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(run) => run.run(),
        Command::Serve(serve) => {
            servers::serve(&serve.folder, Time::started(serve.start, serve.speed))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(error.chain()));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_no_token() {
        let given = ["fleet-sim", "run", "--link", "sapwood+https://a/#fleet=b&token=secret&pin=c"];
        let shown = asked(given.into_iter().map(str::to_owned));
        assert_eq!(shown, "fleet-sim run --link sapwood+https://a/#fleet=b&token=...&pin=c");
        let last = asked(std::iter::once("--link=sapwood+https://a/#token=secret".to_owned()));
        assert_eq!(last, "--link=sapwood+https://a/#token=...");
    }
}
