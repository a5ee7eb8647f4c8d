//! `firmware-host serve`: a model folder and adapters over HTTP as they are, until it is told to end.
//!
//! - By the same routes and limits as the device's: `[serve]` of the configuration holds here too.
//! - Nothing is learned, and nothing is written.

use super::cli::{Choices, Serve as Args};
use super::show;
use super::stop::Stop;
use anyhow::Context;
use firmware_host::clock::{Clock, SystemClock};
use firmware_host::config::{Config, ConfigError, Serve};
use firmware_host::probe::{Probes, SystemProbes};
use firmware_host::serve::{self, Device, Fixed, Named, Server};
use firmware_host::supervise::Supervisor;
use firmware_host::wire::IN_USE;
use sapwood::base::read_config;
use sapwood::settings::{MatmulPrecision, Settings};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most tokens of a block of text that is scored, as `sapwood eval` has it.
const BLOCK_TOKENS: usize = 256;

/// Serves until it is told to end.
///
/// # Errors
/// What keeps it from starting; a thread that broke off.
pub(crate) fn run(choices: &Choices, args: &Args, json: bool) -> anyhow::Result<()> {
    let config = choices.config()?;
    let model = config.model.as_deref().ok_or(ConfigError::Missing { key: "model" })?;
    let settings = Serve { listen: listen(choices, args, &config)?, ..config.serve.clone() };
    serve::check(&settings)?;
    let supervisor = Supervisor::default();
    let stop = Stop::on_signals(&supervisor).context("cannot listen to signals")?;
    let told = stop.clone();
    supervisor.on_break(move |_| told.set());
    let fixed = open(&config, model, args, &settings)?;
    let (models, talks) = (fixed.models(), fixed.talks());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let server = serve::start(&settings, fixed, clock, &supervisor)?;
    let names: Vec<&str> = models.iter().map(|one| one.id.as_str()).collect();
    tell(&server, &settings, &names, talks, json)?;
    tokio::runtime::Builder::new_current_thread().build()?.block_on(stop.told());
    server.stop();
    match supervisor.broken() {
        Some(broken) => Err(broken.into()),
        None => Ok(()),
    }
}

/// The address: of `--listen`, or of `--host` and `--port` over that of the configuration.
fn listen(choices: &Choices, args: &Args, config: &Config) -> anyhow::Result<SocketAddr> {
    let named = args.host.is_some() || args.port.is_some();
    anyhow::ensure!(
        !(named && choices.has_listen()),
        "--listen: expected either that or --host and --port; nothing was started"
    );
    let mut listen = config.serve.listen;
    if let Some(host) = &args.host {
        let is_own = host.as_str() == "localhost";
        let address = if is_own { Ok(IpAddr::from([127, 0, 0, 1])) } else { host.parse() };
        let expected = "--host: expected an IP address or localhost";
        listen.set_ip(address.with_context(|| format!("{expected}, got {host:?}"))?);
    }
    listen.set_port(args.port.unwrap_or(listen.port()));
    Ok(listen)
}

fn open(config: &Config, model: &Path, args: &Args, serve: &Serve) -> anyhow::Result<Fixed> {
    let learn = &config.learn;
    let context = read_config(model)?.positions();
    let settings = Settings {
        // Whatever layers an adapter changes are there to be changed.
        num_layers: -1,
        max_seq_length: BLOCK_TOKENS.min(context),
        device: learn.device,
        threads: learn.threads,
        head_weights: learn.head_weights,
        // So that a score is the same on every machine, unless somebody says otherwise.
        matmul_precision: match learn.matmul_precision {
            MatmulPrecision::Auto => MatmulPrecision::Highest,
            said => said,
        },
        ..Settings::default()
    };
    settings.check()?;
    if learn.threads > 0 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(learn.threads).build_global();
        pool.with_context(|| format!("cannot start {} threads", learn.threads))?;
    }
    let mut probes = SystemProbes::new(config.probes.clone(), model.to_owned());
    let memory_bytes = probes.read().memory_bytes;
    let state = config.state.clone().map(|place| Named { name: IN_USE.to_owned(), place });
    let adapters: Vec<Named> =
        state.into_iter().chain(args.adapters.iter().map(|text| named(text))).collect();
    Ok(Fixed::open(model, &adapters, &settings, serve, memory_bytes)?)
}

/// `NAME=PATH`, or a path whose last part is the name.
fn named(text: &str) -> Named {
    match text.split_once('=') {
        Some((name, path)) if !name.contains('/') => {
            Named { name: name.to_owned(), place: PathBuf::from(path) }
        }
        _ => {
            let place = PathBuf::from(text);
            // `.` and `..` have a name, which the folder itself knows.
            let whole = place.canonicalize().unwrap_or_else(|_| place.clone());
            let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
            Named { name: name.unwrap_or_default(), place }
        }
    }
}

/// Says where it listens, what it serves, and how to ask.
fn tell(
    server: &Server,
    settings: &Serve,
    names: &[&str],
    talks: bool,
    json: bool,
) -> anyhow::Result<()> {
    let address = server.addresses().tcp;
    let url = format!("http://{address}/v1");
    let token = settings
        .token_file
        .as_ref()
        .map(|path| format!(" -H \"authorization: Bearer $(cat '{}')\"", path.display()));
    let (path, body) = match talks {
        true => ("chat/completions", r#"{"messages": [{"role": "user", "content": "Hello"}]}"#),
        false => ("completions", r#"{"prompt": "Hello"}"#),
    };
    let curl = format!(
        "curl {url}/{path}{} -H 'content-type: application/json' -d '{body}'",
        token.unwrap_or_default()
    );
    let value = json!({
        "event": "serving", "listen": address, "url": url, "models": names, "curl": curl,
        "socket": server.addresses().socket,
    });
    let text = format!("serving {} at {url} (Ctrl-C ends it)\n{curl}", names.join(", "));
    show::result(json, &value, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_has_the_name_that_is_said_or_that_of_its_folder() {
        let of = |text: &str| {
            let Named { name, place } = named(text);
            (name, place.display().to_string())
        };
        let pair = |name: &str, place: &str| (name.to_owned(), place.to_owned());
        assert_eq!(of("slow=/srv/a"), pair("slow", "/srv/a"));
        assert_eq!(of("/srv/nowhere/a"), pair("a", "/srv/nowhere/a"));
        assert_eq!(of("/srv/x=y/a"), pair("a", "/srv/x=y/a"));
        assert_eq!(of("a=b=c"), pair("a", "b=c"));
        assert_eq!(of("=a"), pair("", "a"));
    }
}
