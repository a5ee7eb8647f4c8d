//! What settings ask of one another: one place, for the program that starts and the service that starts it.
//!
//! - In: a configuration with its flags over it. Out: nothing, or the first relation that does not hold,
//!   by the name of a key.
//! - Whatever `install` writes `run` accepts: `run`, `job now` and `install` ask [`check_start`].
//! - Limits that merely meet contradict nothing: the smaller holds. A request is bounded by
//!   `body-bytes-max` and the whole inbox, texts by `queue`, `concurrency` and `connections-max`.
//! - Never here: the range of one value (`check`), the choices of a service (`service`).

use super::path::real;
use super::{Config, ConfigError, aliases};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket: `sun_path` without the zero at its end, and elsewhere than on Linux
/// without the name under which it is bound first.
pub const SOCKET_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 - 6 };
/// What a state folder holds in folders: to watch one would take it apart.
const STATE_FOLDERS: [&str; 3] = ["adapters", "learner", "inbox"];

/// What sections of a configuration ask of one another, without its flags.
pub(super) fn check_numbers(config: &Config) -> Result<(), ConfigError> {
    let (job, heat) = (&config.job, &config.constraints);
    if job.samples_max < job.samples_min {
        let expected = format!("at least samples-min ({})", job.samples_min);
        return Err(ConfigError::range("job.samples-max", expected, job.samples_max));
    }
    if job.iters_max < job.iters_min {
        let expected = format!("at least iters-min ({})", job.iters_min);
        return Err(ConfigError::range("job.iters-max", expected, job.iters_max));
    }
    let room = config.intake.inbox_samples_max;
    if job.samples_min > room {
        let expected = format!("at most intake.inbox-samples-max ({room})");
        return Err(ConfigError::range("job.samples-min", expected, job.samples_min));
    }
    if heat.cool_celsius >= heat.hot_celsius {
        let expected = format!("below hot-celsius ({})", heat.hot_celsius);
        return Err(ConfigError::range("constraints.cool-celsius", expected, heat.cool_celsius));
    }
    Ok(())
}

/// What its paths ask of one another, flags included; every command asks this.
///
/// - `file`: the configuration's own file.
///
/// # Errors
/// [`ConfigError::Range`].
pub fn check_paths(config: &Config, file: Option<&Path>) -> Result<(), ConfigError> {
    let [state, model] = [&config.state, &config.model].map(|path| path.as_deref().map(real));
    if state.is_some() && state == model {
        let expected = "a folder of its own, not that of the model";
        return Err(ConfigError::range("state", expected, shown(config.state.as_deref())));
    }
    check_watch(config, file, state.as_deref(), model.as_deref())?;
    check_fleet(config, state.as_deref(), model.as_deref())?;
    let lines: Vec<PathBuf> = config.intake.serial.iter().map(|line| real(&line.path)).collect();
    let twice = (1..lines.len()).find(|&at| lines[..at].contains(&lines[at]));
    match twice.and_then(|at| config.intake.serial.get(at)) {
        Some(line) => {
            let expected = "each line once: two readers would tear its frames apart";
            Err(ConfigError::range("intake.serial.path", expected, line.path.display()))
        }
        None => check_socket(config),
    }
}

fn check_socket(config: &Config) -> Result<(), ConfigError> {
    let Some(path) = config.socket() else { return Ok(()) };
    if path.as_os_str().len() > SOCKET_BYTES_MAX {
        let expected = format!("a path of at most {SOCKET_BYTES_MAX} bytes");
        return Err(ConfigError::range("serve.socket", expected, path.display()));
    }
    Ok(())
}

/// The fleet's folder is nobody else's: what it does not know there it removes.
fn check_fleet(
    config: &Config,
    state: Option<&Path>,
    model: Option<&Path>,
) -> Result<(), ConfigError> {
    let Some(folder) = config.fleet_folder() else { return Ok(()) };
    let own = real(&folder);
    let watch = config.intake.watch.as_deref().map(real);
    let others = [("state", state), ("model", model), ("intake.watch", watch.as_deref())];
    let shared = |other: &Path| own.starts_with(other) || other.starts_with(&own);
    match others.into_iter().find(|(_, other)| other.is_some_and(shared)) {
        Some((key, _)) => {
            let expected = format!("a folder of its own, no part of `{key}` nor around it");
            Err(ConfigError::range("fleet.folder", expected, folder.display()))
        }
        None => Ok(()),
    }
}

/// Refuses to watch a file, the state or the model, or a folder whose files are not samples: they would
/// be read and put away.
fn check_watch(
    config: &Config,
    file: Option<&Path>,
    state: Option<&Path>,
    model: Option<&Path>,
) -> Result<(), ConfigError> {
    let Some(watch) = config.intake.watch.as_deref() else { return Ok(()) };
    let refuse =
        |expected: String| Err(ConfigError::range("intake.watch", expected, watch.display()));
    if watch.exists() && !watch.is_dir() {
        return refuse("a folder".into());
    }
    let watched = real(watch);
    let own = |state: &Path| STATE_FOLDERS.iter().any(|one| watched.starts_with(state.join(one)));
    if state.is_some_and(|state| watched == state || own(state)) {
        let part = "a folder that is no part of the state folder, whose files would be moved away";
        return refuse(part.into());
    }
    if model.is_some_and(|model| watched.starts_with(model)) {
        let part = "a folder that is no part of the model's, whose files would be moved away";
        return refuse(part.into());
    }
    let serve = &config.serve;
    let serial = config.intake.serial.iter().map(|line| line.path.as_path());
    let named =
        [file, serve.token_file.as_deref(), serve.socket.as_deref(), config.job.general.as_deref()];
    let inside = |path: &&Path| real(path).parent() == Some(watched.as_path());
    match named.into_iter().flatten().chain(serial).find(inside) {
        Some(path) => refuse(format!("a folder without {}, which is no sample", path.display())),
        None => Ok(()),
    }
}

/// What a program needs to start, beside what every command does.
///
/// # Errors
/// [`ConfigError::Missing`]; [`ConfigError::Range`] for an address that others can reach, without a token.
pub fn check_start(config: &Config) -> Result<(), ConfigError> {
    for (key, path) in [("model", &config.model), ("state", &config.state)] {
        if path.is_none() {
            return Err(ConfigError::Missing { key });
        }
    }
    if config.serve.is_open() {
        let expected = "a loopback address, or serve.token-file: others can reach this one";
        return Err(ConfigError::range("serve.listen", expected, config.serve.listen));
    }
    aliases::check_device(&config.serve.aliases)
}

fn shown(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn the_fleet_s_folder_is_no_part_of_another_s() {
        let config = |folder: &str| Config {
            state: Some("/srv/state".into()),
            model: Some("/srv/model".into()),
            fleet: crate::config::Fleet { folder: Some(folder.into()), ..Default::default() },
            ..Config::default()
        };
        for folder in ["/srv/state", "/srv/state/fleet", "/srv", "/srv/model/x", "/srv/a/../model"]
        {
            let error = check_paths(&config(folder), None).unwrap_err().to_string();
            assert!(error.starts_with("fleet.folder: expected a folder of its own"), "{error}");
        }
        assert!(check_paths(&config("/srv/state-fleet"), None).is_ok());
    }

    #[test]
    fn a_socket_has_the_length_that_the_system_takes() {
        let named = |bytes: usize| Config {
            state: Some(format!("/{}", "s".repeat(bytes - "//socket".len())).into()),
            ..Config::default()
        };
        assert!(check_paths(&named(SOCKET_BYTES_MAX), None).is_ok());
        let error = check_paths(&named(SOCKET_BYTES_MAX + 1), None).unwrap_err().to_string();
        assert!(error.starts_with("serve.socket: expected a path of at most"), "{error}");
    }
}
