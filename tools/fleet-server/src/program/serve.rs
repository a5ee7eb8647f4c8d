//! `serve`: the server, until it is told to stop.

use super::ended;
use super::judge::Texts;
use super::shown::show;
use anyhow::{Context, Result};
use fleet_server::door::Rate;
use fleet_server::home;
use fleet_server::serve::{self, Settings};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Serves a fleet's devices until it gets SIGTERM or SIGINT.
#[derive(clap::Args)]
pub(super) struct Serve {
    /// The fleet's folder, which `fleet-server init` makes.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Where devices come in, over TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Where health and numbers are told, without TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8444")]
    health: SocketAddr,
    /// Calls a second that one address may make in the long run; ten times as many at once.
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Connections at the same time.
    #[arg(long, default_value = "16384", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// A file with the token that opens /v1/admin on the health address; without one it is open to programs
    /// of this machine alone.
    #[arg(long, value_name = "FILE")]
    operator_token: Option<PathBuf>,
    /// What this server does: `api` takes calls of devices, `work` closes and merges rounds and has releases
    /// go on, `judge` says of every merged round whether it is offered.
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = "api,work",
          value_parser = ["api", "work", "judge"])]
    roles: Vec<String>,
    #[command(flatten)]
    texts: Texts,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Serve {
    pub(super) fn run(&self) -> Result<()> {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
        let has = |role: &str| self.roles.iter().any(|own| own == role);
        let per_s = f64::from(self.rate);
        let judge = if has("judge") { Some(self.texts.judge(&self.folder)?) } else { None };
        let server = serve::start(Settings {
            listen: self.listen,
            health: Some(self.health),
            rate: Rate { per_s, burst: 10.0 * per_s },
            connections_max: self.connections as usize,
            api: has("api"),
            work: has("work"),
            judge: has("judge"),
            operator_token: self.operator_token.as_deref().map(home::token).transpose()?,
            ..Settings::new(&self.folder)
        })?;
        let named = std::thread::Builder::new().name("judge".to_owned());
        let judging = judge.map(|judge| named.spawn(move || judge.go_on())).transpose()?;
        let (listen, health) = (has("api").then_some(server.address), server.health);
        let shown = |address: Option<SocketAddr>| {
            address.map_or_else(|| "nothing".to_owned(), |address| address.to_string())
        };
        let text = format!(
            "serving {} on {}, health on {}",
            self.folder.display(),
            shown(listen),
            shown(health)
        );
        show(self.json, &json!({"listen": listen, "health": health}), &text)?;
        until_told()?;
        ended::tell();
        server.stop();
        if let Some(judging) = judging {
            judging.thread().unpark();
            // One that broke off has ended too.
            let _ = judging.join();
        }
        Ok(())
    }
}

/// Comes back at SIGTERM or SIGINT.
fn until_told() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot wait for a signal")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}
