//! One device of the demo: `firmware-host` with a folder of its own.

use super::PATIENCE;
use super::programs::{Programs, Running, until};
use anyhow::{Result, bail};
use serde_json::Value;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

/// Samples of a device: those that a job begins with.
const SAMPLES: usize = 64;

/// A device that runs.
pub(super) struct Device<'p> {
    programs: &'p Programs,
    folder: PathBuf,
    config: String,
    pub(super) domain: &'static str,
    running: RefCell<Option<Running>>,
}

/// What a device has learned.
pub(super) struct Learned {
    pub(super) adapter: PathBuf,
}

impl<'p> Device<'p> {
    /// Writes a device's configuration: as `samples/host.toml`, with a folder to watch and a fleet.
    pub(super) fn new(
        programs: &'p Programs,
        parent: &Path,
        models: &Path,
        domain: &'static str,
        lab: bool,
    ) -> Result<Self> {
        let folder = parent.join(domain);
        fs::create_dir_all(folder.join("in"))?;
        let general = models.join("samples/general/valid.jsonl");
        let toml = |path: &Path| Value::from(path.display().to_string());
        let config = format!(
            "model = {}\nstate = {}\n\n[serve]\nlisten = \"127.0.0.1:0\"\n\n[intake]\nwatch = {}\n\
             watch-seconds = 1.0\n\n[job]\nsamples-min = 64\nepochs = 3\niters-max = 40\ngeneral = {}\n\n\
             [learn]\nmax-seq-length = 128\ngate-general = 0.10\ngate-old = 0.02\n\n\
             [fleet]\nenabled = true\nlab = {lab}\n",
            toml(&models.join("base")),
            toml(&folder.join("state")),
            toml(&folder.join("in")),
            toml(&general),
        );
        let path = folder.join("host.toml");
        fs::write(&path, config)?;
        let config = path.display().to_string();
        Ok(Self { programs, folder, config, domain, running: RefCell::new(None) })
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["-c", &self.config], more].concat()
    }

    /// Joins the fleet and starts.
    pub(super) fn join(self, link: &str) -> Result<Self> {
        let name = self.domain;
        self.programs.ask("firmware-host", &self.args(&["fleet", "join", link, "--name", name]))?;
        let log = self.folder.join("log");
        let running = self.programs.start("firmware-host", &self.args(&["run"]), &log)?;
        *self.running.borrow_mut() = Some(running);
        until("a device answers", PATIENCE, || Ok(self.status().ok()))?;
        Ok(self)
    }

    fn status(&self) -> Result<Value> {
        self.programs.quietly("firmware-host", &self.args(&["status"]))
    }

    /// Puts samples where the device looks for them, as many as one job learns.
    pub(super) fn feed(&self, samples: &Path) -> Result<()> {
        let text = fs::read_to_string(samples)?;
        let lines: String = text.split_inclusive('\n').take(SAMPLES).collect();
        fs::write(self.folder.join("in/train.jsonl"), lines)?;
        Ok(())
    }

    /// What it has learned, once it has.
    pub(super) fn learned(&self) -> Result<Learned> {
        let number = until(&format!("{} has learned", self.domain), PATIENCE, || {
            let status = self.status()?;
            let jobs = status["jobs"].as_array().cloned().unwrap_or_default();
            if let Some(job) = jobs.iter().find(|job| job["ending"] == "failed") {
                bail!("a job of {} failed: {}", self.domain, job["reason"]);
            }
            Ok(status["serving"]["generation"].as_u64())
        })?;
        Ok(Learned { adapter: self.folder.join(format!("state/adapters/{number}")) })
    }

    /// Has it check in now: it uploads if it is invited, and hears what is offered.
    pub(super) fn sync(&self) -> Result<()> {
        self.programs.ask("firmware-host", &self.args(&["fleet", "sync"]))?;
        Ok(())
    }

    /// Has it check in, and waits until what is offered is installed.
    pub(super) fn install(&self) -> Result<()> {
        self.sync()?;
        until(&format!("{} installs", self.domain), PATIENCE, || {
            let status = self.status()?;
            let jobs = status["jobs"].as_array().cloned().unwrap_or_default();
            match jobs.iter().rfind(|job| job["kind"] == "install") {
                Some(job) if job["ending"] == "kept" => Ok(Some(())),
                Some(job) => bail!("{} did not install it: {}", self.domain, job["reason"]),
                None => Ok(None),
            }
        })
    }
}
