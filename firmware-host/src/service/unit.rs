//! The unit of systemd: a notify service whose watchdog is progress, shut in, and last in line.
//!
//! - In: a [`Service`]. Out: the text of the unit, without the line that says who wrote it.
//! - What an older systemd does not know it passes over with a warning: the growing pause between
//!   two starts is there from version 254 on.
//! - A user's own manager may not shut services into namespaces: its units keep what needs none.

use super::{STOP_SECONDS, Service, ServiceError};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Folders that a service has for itself, and empty, but for what its configuration names.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// Folders of people, of which it sees nothing but that.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

pub(super) fn write(service: &Service) -> Result<String, ServiceError> {
    let mut unit = head(service)?;
    unit += &run(service)?;
    match service.low_port {
        Some(port) if service.options.user => {
            let (name, expected) = ("serve.listen", "a port of 1024 or more for a user's service");
            return Err(ServiceError::Choice { name, expected, got: port.to_string() });
        }
        _ => {}
    }
    if !service.options.user {
        unit += &owner(service)?;
    }
    unit += &room(service);
    unit += &fence(service);
    if !service.options.user {
        unit += &view(service)?;
        unit += &devices(service)?;
        unit += &network(service);
    }
    let target = if service.options.user { "default.target" } else { "multi-user.target" };
    Ok(format!("{unit}\n[Install]\nWantedBy={target}\n"))
}

fn head(service: &Service) -> Result<String, ServiceError> {
    let mut unit = "[Unit]\nDescription=Sapwood, a language model that learns on this device\n\
                    After=network.target\n"
        .to_owned();
    for path in service.reads.iter().chain(own(service)) {
        let _ = writeln!(unit, "RequiresMountsFor={}", word(path)?);
    }
    // With the growing pause this many starts never fit into an hour; without it a program that
    // cannot start is given up after ten minutes or more.
    unit += "StartLimitIntervalSec=1h\nStartLimitBurst=60\n";
    Ok(unit)
}

fn run(service: &Service) -> Result<String, ServiceError> {
    let options = &service.options;
    // Variables mean nothing in the name of the program itself.
    let mut command = word(&options.program)?;
    for argument in &options.arguments {
        let _ = write!(command, " {}", quoted(argument));
    }
    let credential = match &service.token {
        None => None,
        Some(path) if options.user => {
            let _ = write!(command, " --token-file {}", quoted(&path.display().to_string()));
            None
        }
        Some(path) => {
            command += " --token-file ${CREDENTIALS_DIRECTORY}/token";
            Some(path)
        }
    };
    let watchdog = options.watchdog_seconds;
    let mut unit = format!(
        "\n[Service]\nType=notify\nNotifyAccess=main\nExecStart={command}\n\
         # Loading a base, and the optimiser step under way with its checkpoint.\n\
         TimeoutStartSec=15min\nTimeoutStopSec={STOP_SECONDS}\nKillSignal=SIGTERM\n\
         # Fed by steps, looks and tokens, never by a timer.\n\
         WatchdogSec={watchdog}\n\
         Restart=on-failure\nRestartSec=10\nRestartSteps=6\nRestartMaxDelaySec=5min\n\
         # A refused command line or configuration does not mend itself.\n\
         RestartPreventExitStatus=2 78\nOOMPolicy=stop\n"
    );
    if let Some(path) = credential {
        // The account that runs the program cannot read root's file: systemd hands a copy over.
        let _ = writeln!(unit, "LoadCredential=token:{}", doubled(&path.display().to_string()));
    }
    Ok(unit)
}

/// Who runs it, and which folders are made for that account.
fn owner(service: &Service) -> Result<String, ServiceError> {
    let mut unit = match &service.options.account {
        Some(account) => format!("\nUser={account}\n"),
        None => "\nDynamicUser=yes\n".into(),
    };
    for folder in own(service) {
        match below(folder, "/var/lib") {
            Some(name) => {
                let _ = writeln!(unit, "StateDirectory={name}\nStateDirectoryMode=0700");
            }
            None if service.options.account.is_none() => {
                let expected =
                    "a state folder below /var/lib with a plain name, or --account for its owner";
                return Err(ServiceError::Path { path: folder.clone(), expected });
            }
            None => {}
        }
    }
    if let Some(name) = service
        .options
        .config
        .as_deref()
        .and_then(Path::parent)
        .and_then(|folder| below(folder, "/etc"))
    {
        let _ = writeln!(unit, "ConfigurationDirectory={name}");
    }
    for folder in &service.writes {
        if let Some(name) = below(folder, "/run") {
            let _ = writeln!(unit, "RuntimeDirectory={name}");
        }
    }
    Ok(unit)
}

/// What it may take of the machine: the device's own work goes first.
fn room(service: &Service) -> String {
    let (high, max) = (&service.options.memory_high, &service.options.memory_max);
    format!(
        "\n# The device's own work goes first.\n\
         Nice=10\nCPUWeight=20\nIOWeight=20\nIOSchedulingPriority=7\nOOMScoreAdjust=500\n\
         MemoryHigh={high}\nMemoryMax={max}\nTasksMax=512\n"
    )
}

/// What needs no namespace.
fn fence(service: &Service) -> String {
    let mut unit =
        "\nUMask=0077\nNoNewPrivileges=yes\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n\
                    RestrictNamespaces=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\n\
                    LockPersonality=yes\nSystemCallArchitectures=native\n\
                    SystemCallFilter=@system-service\nSystemCallFilter=~@privileged\n\
                    SystemCallErrorNumber=EPERM\n"
            .to_owned();
    if !service.gpu {
        // No kernel of the CPU is made at run time; what a GPU's driver maps is not known.
        unit += "MemoryDenyWriteExecute=yes\n";
    }
    unit
}

/// What it sees of the file system and of other processes.
fn view(service: &Service) -> Result<String, ServiceError> {
    let capability = service.low_port.map_or("", |_| "CAP_NET_BIND_SERVICE");
    let mut unit = format!(
        "CapabilityBoundingSet={capability}\nAmbientCapabilities={capability}\n\
         ProtectSystem=strict\nPrivateTmp=yes\nProtectProc=invisible\nProtectClock=yes\n\
         ProtectHostname=yes\nProtectKernelLogs=yes\nProtectKernelModules=yes\n\
         ProtectKernelTunables=yes\nProtectControlGroups=yes\nRemoveIPC=yes\n"
    );
    let writes = || service.writes.iter().chain(own(service));
    let all = || service.reads.iter().chain(writes());
    own_folders(all())?;
    let at_home = all().any(|path| is_below(&real(path), &HOMES));
    unit += if at_home { "ProtectHome=tmpfs\n" } else { "ProtectHome=yes\n" };
    for path in service.reads.iter().map(|path| real(path)).filter(|path| is_hidden(path)) {
        let _ = writeln!(unit, "BindReadOnlyPaths={}", word(&path)?);
    }
    for path in writes().map(|path| real(path)).filter(|path| is_hidden(path)) {
        let _ = writeln!(unit, "BindPaths={}", word(&path)?);
    }
    let made = |path: &&PathBuf| {
        own(service).any(|own| own == *path) && below(path, "/var/lib").is_some()
            || below(path, "/run").is_some()
    };
    for path in writes().filter(|path| !made(path) && !is_hidden(&real(path))) {
        let _ = writeln!(unit, "ReadWritePaths={}", word(path)?);
    }
    Ok(unit)
}

/// The folders that are the program's own: its state, and what it keeps for its fleet.
fn own(service: &Service) -> impl Iterator<Item = &PathBuf> {
    [&service.state].into_iter().chain(&service.fleet)
}

/// Refuses what all services share: what is hidden there cannot be shown, and nobody may write there.
fn own_folders<'a>(mut paths: impl Iterator<Item = &'a PathBuf>) -> Result<(), ServiceError> {
    let shared = |path: &&PathBuf| {
        let mut all = ["/run", "/var/run"].iter().chain(&TEMPORARY).chain(&HOMES);
        all.any(|folder| path.as_path() == Path::new(folder))
    };
    match paths.find(shared) {
        Some(path) => {
            let expected = "a folder of its own there, also for a socket: this one is everybody's";
            Err(ServiceError::Path { path: path.clone(), expected })
        }
        None => Ok(()),
    }
}

/// A path as the system resolves it: what a link leads to must be seen too.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

fn is_below(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Whether the service sees nothing of it unless it is shown.
fn is_hidden(path: &Path) -> bool {
    is_below(path, &TEMPORARY) || is_below(path, &HOMES)
}

/// No device but the serial lines of the configuration, and a GPU where one is built in.
fn devices(service: &Service) -> Result<String, ServiceError> {
    if service.devices.is_empty() && !service.gpu {
        // A low port is not given to users of its own.
        let users = service.low_port.map_or("PrivateUsers=yes\n", |_| "");
        return Ok(format!("PrivateDevices=yes\n{users}"));
    }
    let (mut unit, mut groups) = (String::from("DevicePolicy=closed\n"), Vec::new());
    for line in &service.devices {
        groups = vec!["dialout"];
        let allow = match line.to_str() {
            // What is plugged in later has no number yet when the service starts: its class has.
            Some(name) if name.starts_with("/dev/ttyUSB") => "char-ttyUSB".into(),
            Some(name) if name.starts_with("/dev/ttyACM") => "char-ttyACM".into(),
            Some(name) if name.starts_with("/dev/serial/") => {
                unit += "DeviceAllow=char-ttyUSB rw\n";
                "char-ttyACM".into()
            }
            _ => word(line)?,
        };
        let _ = writeln!(unit, "DeviceAllow={allow} rw");
    }
    if service.gpu {
        groups.extend(["video", "render"]);
        unit += "DeviceAllow=char-nv* rw\nDeviceAllow=char-drm rw\nDeviceAllow=/dev/nvmap rw\n";
    }
    let _ = writeln!(unit, "SupplementaryGroups={}", groups.join(" "));
    Ok(unit)
}

fn network(service: &Service) -> String {
    if service.local {
        "IPAddressDeny=any\nIPAddressAllow=localhost\n".into()
    } else {
        String::new()
    }
}

/// The rest of a path below a folder that systemd makes folders in, where its name is plain.
fn below(path: &Path, root: &str) -> Option<String> {
    let name = path.strip_prefix(root).ok()?.to_str()?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./".contains(letter);
    let stays = !name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    (stays && name.chars().all(plain)).then(|| name.to_owned())
}

/// A path in a list of paths: there `\` stands for itself, so a quote inside cannot be written.
fn word(path: &Path) -> Result<String, ServiceError> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\'', '\\']) => Ok(format!("\"{}\"", doubled(text))),
        _ => {
            let expected = "no quotes and no `\\`, which systemd cannot hold in a list of paths";
            Err(ServiceError::Path { path: path.to_path_buf(), expected })
        }
    }
}

/// An argument of a command line, exactly as it is.
fn quoted(argument: &str) -> String {
    let escaped = argument.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    format!("\"{}\"", doubled(&escaped))
}

/// `%` begins a specifier, doubled it stands for itself.
fn doubled(text: &str) -> String {
    text.replace('%', "%%")
}
