//! The command line: what each command takes, and the configuration that file and flags make.
//!
//! - Every command takes the same choices, so that `status -c FILE` finds what `run -c FILE` uses.
//! - A flag wins over the file. A relative path in a file is relative to that file's folder, one in a
//!   flag to the working directory: a file means the same wherever it is read from.
//! - Never here: what the commands do.

use clap::{Args, Parser, Subcommand, ValueEnum};
use firmware_host::config::{Config, ConfigError, plain, relations};
use firmware_host::log;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why the choices make no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChoiceError {
    /// The file cannot be read.
    #[error("cannot read configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file, or a flag over it, is refused.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A flag is refused.
    #[error(transparent)]
    Flag(#[from] ConfigError),
    /// A folder of other things.
    #[error(
        "state: expected an empty folder, a new one or that of a state; {} holds {name}; nothing was changed",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What no state has.
        name: String,
    },
    /// Neither file nor flag says it.
    #[error("expected --{0}, or `{0}` in the file of --config; got neither")]
    Missing(&'static str),
}

/// Keeps a language model learning on this device.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Command {
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// Results as JSON, for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What every command may be told.
#[derive(Debug, Default, Args)]
pub(crate) struct Choices {
    /// Configuration, TOML.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Model folder.
    #[arg(long, global = true, value_name = "DIR")]
    model: Option<PathBuf>,
    /// State folder; one program at a time.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Address of the HTTP interface; one that is not loopback needs a token.
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Unix socket; `STATE/socket` when nothing is said.
    #[arg(long, global = true, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Folder to watch for files of samples.
    #[arg(long, global = true, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// File that holds the token which TCP clients must send.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How log lines look; else text for terminals and the journal, JSON elsewhere.
    #[arg(long, global = true)]
    log_format: Option<LogFormat>,
    /// What is logged: events of this level and graver.
    #[arg(long, global = true, default_value = LOG_LEVEL, value_name = "LEVEL")]
    #[arg(value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: String,
}

/// What is logged when nothing is said.
const LOG_LEVEL: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Words for a person.
    Text,
    /// One object a line, for a program.
    Json,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Take samples in, learn when the device can afford it, serve the result.
    #[cfg(feature = "engine")]
    Run,
    /// Serve a model folder and adapters as they are; nothing is learned.
    #[cfg(feature = "engine")]
    Serve(Serve),
    /// What the program that runs is doing, or what the state folder holds.
    Status,
    /// Learning jobs.
    #[command(subcommand)]
    Job(Job),
    /// Samples that no job could take in: they are kept until you decide.
    #[command(subcommand)]
    Aside(Aside),
    /// The fleet: lend others what was learned here, and take what they learned.
    #[command(subcommand)]
    Fleet(Fleet),
    /// Go on with a state folder whose manifests are lost.
    Recover(Recover),
    /// Use an earlier generation again; samples that were learned since are not learned once more.
    Rollback(Rollback),
    /// Stop learning at the next optimiser step, until `resume`; serving goes on.
    Pause,
    /// Go on learning.
    Resume,
    /// What the device tells of itself, and where: names for `[probes]` and numbers for `[constraints]`.
    Probes,
    /// Make frames of JSON lines, from standard input to standard output, as a microcontroller would.
    Frames(Frames),
    /// Write the service file and have systemd or launchd start the program.
    Install(Install),
    /// Have it stopped, and remove the service file.
    Uninstall(Uninstall),
}

/// What is served as it is.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// An adapter: a folder of PEFT or mlx-lm, or a state folder for its slow adapter; may be given several
    /// times. Each is a model of its name, else of its folder's, and `base` is the bare base. Where a request
    /// names no model the first one answers: that of --state, which is called `sapwood`, or the first here.
    #[arg(long = "adapter-path", alias = "adapter", value_name = "[NAME=]PATH")]
    pub(crate) adapters: Vec<String>,
    /// Address to listen on, in place of --listen's.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) host: Option<String>,
    /// Port to listen on, in place of --listen's.
    #[arg(long)]
    pub(crate) port: Option<u16>,
}

/// Learning jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Learn what waits in the inbox, now.
    Now,
}

/// What becomes of samples that were set aside.
#[derive(Debug, Subcommand)]
pub(crate) enum Aside {
    /// Show them, with the reasons.
    List,
    /// Have them wait for a job again.
    Retry(Numbers),
    /// Let go of them for good.
    Drop(Numbers),
}

/// The device in a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum Fleet {
    /// Join the fleet of an enrolment link; again, with another link of the same fleet, to go on by it.
    Join {
        /// The link that the fleet's operator gave, `sapwood+https://..`; `-` reads it from standard
        /// input, so that no list of processes and no history of a shell holds its token.
        link: String,
        /// What people call this device; else the name of its system.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// How this device is in its fleet.
    Status,
    /// Forget the fleet, its key and what was on its way; what is installed stays.
    Leave,
    /// Check in now.
    Sync,
    /// Make another key and have the fleet's server know it; the device stays the same.
    RotateKey,
}

/// Which samples.
#[derive(Debug, Args)]
pub(crate) struct Numbers {
    /// Their numbers, as `aside list` shows them.
    #[arg(required_unless_present = "all", value_name = "NUMBER")]
    pub(crate) numbers: Vec<u64>,
    /// All of them.
    #[arg(long, conflicts_with = "numbers")]
    pub(crate) all: bool,
}

/// What a state folder is recovered from.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The adapters that lie in it: the newest that is whole is used from then on, and the reservoir
    /// begins with the blocks that are found in its file.
    #[arg(long, required = true)]
    pub(crate) from_adapters: bool,
}

/// What is used again.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Its number, which `status` shows, 0 for the bare base; else the one before the one in use.
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<u64>,
}

/// How frames are made.
#[derive(Debug, Args)]
pub(crate) struct Frames {
    /// Bytes of the sender's buffer, for one frame.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) frame_bytes: usize,
    /// Number of the sender's start; a receiver knows by it that counting began anew. Else the time.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) session: Option<u32>,
}

/// Where a service file lies.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// A service of this user's session, not of the machine.
    #[arg(long)]
    pub(crate) user: bool,
    /// Whose service file; else that of this system.
    #[arg(long)]
    manager: Option<ManagerName>,
    /// Another root of the file system, as of an image; no command is run.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Replace or remove a file that somebody else wrote or changed.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Who runs services.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ManagerName {
    /// Linux.
    Systemd,
    /// macOS.
    Launchd,
}

impl Where {
    /// Whose file it is.
    pub(crate) fn manager(&self) -> firmware_host::service::Manager {
        use firmware_host::service::Manager;
        match self.manager {
            Some(ManagerName::Systemd) => Manager::Systemd,
            Some(ManagerName::Launchd) => Manager::Launchd,
            None => Manager::of_this_system(),
        }
    }
}

/// What a service is made from.
#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Show the file; write nothing, run nothing.
    #[arg(long)]
    pub(crate) print: bool,
    /// Account that a service of the machine runs under; else systemd makes one for it alone.
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// Memory above which the program is slowed down: a percentage, or bytes with K, M, G or T.
    #[arg(long, default_value = "60%", value_name = "SIZE")]
    pub(crate) memory_high: String,
    /// Memory above which it is killed and started again.
    #[arg(long, default_value = "75%", value_name = "SIZE")]
    pub(crate) memory_max: String,
    /// Seconds without progress after which it is killed and started again.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) watchdog_seconds: u32,
}

/// Which service goes.
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) place: Where,
}

impl Choices {
    /// The file with the flags over it, checked.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub(crate) fn config(&self) -> Result<Config, ChoiceError> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ChoiceError::Read { path: path.clone(), source })?;
                let config = Config::from_toml(&text)
                    .map_err(|source| ChoiceError::File { path: path.clone(), source })?;
                anchored(config, path.parent().unwrap_or(Path::new("")))
            }
        };
        let over = |flag: &Option<PathBuf>, key: &mut Option<PathBuf>| {
            if flag.is_some() {
                key.clone_from(flag);
            }
        };
        // Without a file nothing is said of learning: all of it is chosen by base and state.
        config.wishes.get_or_insert_default();
        over(&self.model, &mut config.model);
        over(&self.state, &mut config.state);
        over(&self.socket, &mut config.serve.socket);
        over(&self.watch, &mut config.intake.watch);
        over(&self.token_file, &mut config.serve.token_file);
        config.serve.listen = self.listen.unwrap_or(config.serve.listen);
        config.check()?;
        relations::check_paths(&config, self.config.as_deref())?;
        Ok(config)
    }

    /// Whether an address was said by a flag.
    #[cfg(feature = "engine")]
    pub(crate) fn has_listen(&self) -> bool {
        self.listen.is_some()
    }

    /// The same, with all that a program needs to start: what `run` starts with and `install` writes.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub(crate) fn to_start(&self) -> Result<Config, ChoiceError> {
        let config = self.config()?;
        relations::check_start(&config)?;
        Ok(config)
    }

    /// The flags as a service repeats them, paths absolute; the token's file goes its own way.
    ///
    /// # Errors
    /// What the system says of the working directory.
    pub(crate) fn arguments(&self) -> std::io::Result<Vec<String>> {
        let mut all = vec!["run".to_owned()];
        let paths = [
            ("--config", &self.config),
            ("--model", &self.model),
            ("--state", &self.state),
            ("--socket", &self.socket),
            ("--watch", &self.watch),
        ];
        for (flag, path) in paths {
            if let Some(path) = path {
                all.extend([flag.to_owned(), plain(path)?.display().to_string()]);
            }
        }
        if let Some(listen) = self.listen {
            all.extend(["--listen".to_owned(), listen.to_string()]);
        }
        if let Some(format) = self.log_format {
            let name = if matches!(format, LogFormat::Text) { "text" } else { "json" };
            all.extend(["--log-format".to_owned(), name.to_owned()]);
        }
        if self.log_level != LOG_LEVEL {
            all.extend(["--log-level".to_owned(), self.log_level.clone()]);
        }
        Ok(all)
    }

    /// How the log is to be.
    pub(crate) fn log(&self) -> (Option<log::Format>, tracing::Level) {
        let format = self.log_format.map(|format| match format {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        });
        (format, self.log_level.parse().unwrap_or(tracing::Level::INFO))
    }
}

/// The state folder of a configuration.
///
/// # Errors
/// [`ChoiceError::Missing`].
pub(crate) fn state(config: &Config) -> Result<&Path, ChoiceError> {
    config.state.as_deref().ok_or(ChoiceError::Missing("state"))
}

/// The Unix socket of a configuration.
///
/// # Errors
/// [`ChoiceError::Missing`] when neither the socket nor the state folder is said.
pub(crate) fn socket(config: &Config) -> Result<PathBuf, ChoiceError> {
    config.socket().ok_or(ChoiceError::Missing("state"))
}

/// The configuration with its relative paths below the folder of its file.
fn anchored(mut config: Config, folder: &Path) -> Config {
    let optional = [
        &mut config.model,
        &mut config.state,
        &mut config.job.general,
        &mut config.intake.watch,
        &mut config.serve.socket,
        &mut config.serve.token_file,
        &mut config.fleet.folder,
        &mut config.fleet.ca_file,
    ];
    let serial = config.intake.serial.iter_mut().map(|line| &mut line.path);
    let probes = [&mut config.probes.sys, &mut config.probes.proc];
    for path in optional.into_iter().flatten().chain(serial).chain(probes) {
        // An absolute path stays as it is.
        *path = folder.join(&*path);
    }
    config
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use clap::CommandFactory;

    fn choices(words: &[&str]) -> Choices {
        let words = ["firmware-host", "status"].iter().chain(words);
        Command::try_parse_from(words).unwrap().choices
    }

    /// An adapter that is there keeps its shape: without a file as with an empty one.
    #[test]
    fn without_a_file_all_of_learning_is_left_open() {
        let config = choices(&["--state", "s"]).config().unwrap();
        assert_eq!(config.wishes, Some(sapwood::settings::Overrides::default()));
    }

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }

    #[test]
    fn paths_of_a_file_are_relative_to_it_and_flags_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let text = "model = \"model\"\nstate = \"/srv/state\"\n[intake]\nwatch = \"drop\"\n\
                    serial = [{ path = \"/dev/ttyUSB0\", baud = 115200 }]\n";
        std::fs::write(&file, text).unwrap();
        let config = choices(&["-c", file.to_str().unwrap(), "--watch", "here"]).config().unwrap();
        assert_eq!(config.model, Some(folder.path().join("model")));
        assert_eq!(config.state.as_deref(), Some(Path::new("/srv/state")));
        assert_eq!(config.intake.watch.as_deref(), Some(Path::new("here")));
        assert_eq!(config.intake.serial[0].path, Path::new("/dev/ttyUSB0"));
        assert_eq!(socket(&config).unwrap(), Path::new("/srv/state/socket"));
    }

    #[test]
    fn a_refused_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[job]\nsample-min = 3\n").unwrap();
        let error = choices(&["-c", file.to_str().unwrap()]).config().unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains("line 2"), "{error}");
        let missing = choices(&["-c", "/no/such/file"]).config().unwrap_err();
        assert!(matches!(missing, ChoiceError::Read { .. }), "{missing}");
        let nothing = socket(&choices(&[]).config().unwrap()).unwrap_err();
        assert!(nothing.to_string().contains("--state"), "{nothing}");
    }

    #[test]
    fn a_service_repeats_the_flags_with_absolute_paths() {
        let words = ["--state", "state", "--listen", "127.0.0.1:1", "--token-file", "token"];
        let arguments = choices(&words).arguments().unwrap();
        assert_eq!(arguments[..2], ["run", "--state"]);
        assert!(Path::new(&arguments[2]).is_absolute());
        assert_eq!(arguments[3..], ["--listen", "127.0.0.1:1"]);
    }
}
