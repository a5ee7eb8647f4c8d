//! `demo`: a small fleet on this machine, played with the programs that anybody would type.
//!
//! ```text
//! init -> serve -> three devices join, learn a domain each, upload -> merge -> judge -> candidate
//!      -> the lab installs -> promote -> the others install -> table
//! ```
//! - Every step is a command of `fleet-server`, `firmware-host` or `sapwood`, printed before it runs.
//! - Never here: anything that the commands do not do.

mod programs; // commands, and programs that run until the end
mod device; //   one device: its folder, its jobs, its adapters
mod table; //    bits per byte

use super::ended;
use super::shown::show;
use anyhow::{Context, Result, bail, ensure};
use device::Device;
use programs::{Programs, Running, until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use table::Table;

/// A domain for each device; the first device is of the lab.
const DOMAINS: [&str; 3] = ["command_phrases", "device_logs", "maintenance_notes"];
/// How long a step may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Smaller than what a real fleet would have: three devices are all there are.
const POLICY: &str = r#"{"min_devices": 3, "quota": 3, "rank": 32}"#;

/// Plays a small fleet on this machine: a server and three devices, which learn a domain each.
///
/// Needs `firmware-host` and `sapwood` beside this program, as `cargo build --release` puts them.
#[derive(clap::Args)]
pub(super) struct Demo {
    /// The shipped base and samples.
    #[arg(long, value_name = "DIR", default_value = "models")]
    models: PathBuf,
    /// Where the fleet is kept; must not exist yet. Without it a temporary folder, removed at the end.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

impl Demo {
    #[expect(clippy::disallowed_methods, reason = "no file is renamed here, and none is kept")]
    pub(super) fn run(&self) -> Result<()> {
        let models = self.models.canonicalize();
        let models = models.with_context(|| format!("--models {}", self.models.display()))?;
        let own = std::env::temp_dir().join(format!("sapwood-fleet-{}", std::process::id()));
        let folder = self.folder.as_ref().unwrap_or(&own);
        ended::heed()?;
        ensure!(!folder.exists(), "{} is there already: name another --folder", folder.display());
        let played = std::fs::create_dir_all(folder)
            .with_context(|| folder.display().to_string())
            .and_then(|()| Ok(folder.canonicalize()?))
            .and_then(|folder| Story { programs: Programs::find(&folder)?, models, folder }.play());
        if self.folder.is_none() {
            // What is left of a temporary folder is the system's to sweep.
            let _ = std::fs::remove_dir_all(&own);
        }
        let table = played?;
        show(self.json, &table.json(), &table.to_string())
    }
}

/// A fleet that is played.
struct Story {
    programs: Programs,
    models: PathBuf,
    folder: PathBuf,
}

impl Story {
    fn play(&self) -> Result<Table> {
        say("A fleet and its server.");
        let server = self.serve()?;
        say(
            "Three devices join. The first is of the lab, which tries what nobody has released yet.",
        );
        let devices = self.join(&server)?;
        let fleet = self.folder.join("server");
        let fleet = fleet.to_str().context("the folder's name is not UTF-8")?;
        let order = |args: &[&str]| {
            self.programs.ask("fleet-server", &[args, &["--folder", fleet]].concat())
        };
        until("three devices have joined", PATIENCE, || {
            let told = self.programs.quietly(
                "fleet-server",
                &["devices", "list", "--state", "accepted", "--folder", fleet],
            )?;
            let all = told["devices"].as_array().map_or(0, Vec::len);
            Ok((all == DOMAINS.len()).then_some(()))
        })?;
        order(&["cohorts", "policy", POLICY])?;
        say("Each learns its own domain, where nobody sees its text.");
        devices.iter().try_for_each(|device| device.feed(&self.sample(device.domain, "train")))?;
        let alone = devices.iter().map(Device::learned).collect::<Result<Vec<_>>>()?;
        say("A round: each sends its adapter, the server merges what they add to the weights.");
        let round = order(&["rounds", "open"])?;
        let round = round["round"].as_u64().context("a round has a number")?.to_string();
        devices.iter().try_for_each(Device::sync)?;
        until("the round is merged", PATIENCE, || {
            let told = self
                .programs
                .quietly("fleet-server", &["rounds", "show", &round, "--folder", fleet])?;
            match told["state"].as_str() {
                Some("merged") => Ok(Some(())),
                Some("failed") => bail!("the round failed: {told}"),
                _ => Ok(None),
            }
        })?;
        say("A judge: better on the fleet's text, and no worse on general text?");
        let candidate = self.judge(&order, &round)?.to_string();
        say("The lab tries the candidate. Its gate judges too, on its own held-out text.");
        devices[0].install()?;
        say("The operator releases it, with the key that the server does not need.");
        let key = format!("{fleet}/keys/release.key");
        let release = order(&["releases", "promote", &candidate, "--release-key", &key])?;
        let release = release["sequence"].as_u64().context("a release has a sequence")?.to_string();
        // 1 % at first; an operator who is in a hurry goes on by hand.
        (0..4).try_for_each(|_| order(&["rollout", "advance", &release]).map(|_| ()))?;
        devices[1..].iter().try_for_each(Device::install)?;
        say("What it brought, on text that nobody learned:");
        Table::of(&self.programs, &self.models, &devices, &alone)
    }

    /// Makes the fleet and starts its server.
    fn serve(&self) -> Result<Server> {
        let folder = self.folder.join("server").display().to_string();
        self.programs.ask(
            "fleet-server",
            &["init", "--folder", &folder, "--name", "demo", "--tls", "localhost,127.0.0.1"],
        )?;
        let args =
            ["serve", "--folder", &folder, "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0"];
        let (running, told) = self.programs.start_told("fleet-server", &args, &folder)?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        say(&format!("Its page, until the end: http://{}/", text("health")));
        Ok(Server { _running: running, address: text("listen"), folder })
    }

    fn join(&self, server: &Server) -> Result<Vec<Device<'_>>> {
        let link = |more: &[&str]| -> Result<String> {
            let args = ["enroll-link", "--folder", &server.folder, "--address", &server.address];
            let fixed = ["--label", "demo", "--auto-accept"];
            let told = self.programs.ask("fleet-server", &[&args[..], &fixed, more].concat())?;
            Ok(told["link"].as_str().context("a link")?.to_owned())
        };
        let (lab, others) = (link(&["--lab"])?, link(&["--uses", "2"])?);
        let join = |(at, domain): (usize, &'static str)| {
            let device = Device::new(&self.programs, &self.folder, &self.models, domain, at == 0)?;
            device.join(if at == 0 { &lab } else { &others })
        };
        DOMAINS.into_iter().enumerate().map(join).collect()
    }

    fn judge(&self, order: &dyn Fn(&[&str]) -> Result<Value>, round: &str) -> Result<u64> {
        let text = self.folder.join("held-out.jsonl");
        let held_out: Result<Vec<Vec<u8>>, _> =
            DOMAINS.iter().map(|domain| std::fs::read(self.sample(domain, "valid"))).collect();
        std::fs::write(&text, held_out?.concat())?;
        let path = |path: &Path| path.display().to_string();
        let sapwood = path(&self.programs.path("sapwood"));
        let (model, general) =
            (path(&self.models.join("base")), path(&self.sample("general", "valid")));
        let told = order(&[
            "judge",
            "--round",
            round,
            "--sapwood",
            &sapwood,
            "--model",
            &model,
            "--general",
            &general,
            "--text",
            &path(&text),
        ])?;
        told["sequence"].as_u64().with_context(|| format!("the judge refused the merge: {told}"))
    }

    fn sample(&self, domain: &str, split: &str) -> PathBuf {
        self.models.join(format!("samples/{domain}/{split}.jsonl"))
    }
}

/// A server that runs until it is dropped.
struct Server {
    _running: Running,
    address: String,
    folder: String,
}

#[expect(clippy::print_stderr, reason = "what happens is told while it does")]
fn say(text: &str) {
    eprintln!("\n{text}");
}
