//! The service file in its place, and the manager's commands around it.
//!
//! - A file is written whole or not at all, and never over one that somebody else wrote or changed:
//!   a line in it says who wrote it, with a hash of all the other lines.
//! - Under another root, as when an image is made, no command is run.

use super::{LABEL, Manager, STOP_SECONDS, ServiceError, UNIT};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// In front of the hash, on a line of its own.
const MARK: &str = "Written by `firmware-host install`; BLAKE3 of the other lines: ";

/// Time between two looks whether a service has ended, and how many there are: as long as it may take.
const GONE_LOOK: Duration = Duration::from_millis(200);
const GONE_LOOKS: u32 = 5 * STOP_SECONDS;

/// Where a service file lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whose file it is.
    pub manager: Manager,
    /// A service of one user's session rather than of the machine.
    pub user: bool,
    /// Another root of the file system than that of this machine.
    pub root: Option<PathBuf>,
}

impl Place {
    /// The file.
    ///
    /// # Errors
    /// [`ServiceError::Missing`] for a user without a home.
    pub fn path(&self) -> Result<PathBuf, ServiceError> {
        let folder = match (self.manager, self.user) {
            (Manager::Systemd, false) => PathBuf::from("/etc/systemd/system"),
            (Manager::Launchd, false) => PathBuf::from("/Library/LaunchDaemons"),
            (manager, true) => {
                let home = std::env::home_dir().ok_or(ServiceError::Missing("HOME"))?;
                let own = manager == Manager::Systemd;
                home.join(if own { ".config/systemd/user" } else { "Library/LaunchAgents" })
            }
        };
        let folder = match &self.root {
            // `join` would leave the other root for an absolute path.
            Some(root) => root.join(folder.strip_prefix("/").unwrap_or(&folder)),
            None => folder,
        };
        Ok(folder.join(match self.manager {
            Manager::Systemd => UNIT.to_owned(),
            Manager::Launchd => format!("{LABEL}.plist"),
        }))
    }

    /// Commands that make the manager take the file in and start the program.
    fn starting(&self, path: &Path) -> Vec<Vec<String>> {
        match self.manager {
            Manager::Systemd => vec![
                self.systemctl(&["daemon-reload"]),
                self.systemctl(&["enable", UNIT]),
                // One that runs already is to run with the new file.
                self.systemctl(&["restart", UNIT]),
            ],
            Manager::Launchd => {
                vec![launchctl(&["bootstrap", &self.domain(), &path.display().to_string()])]
            }
        }
    }

    fn stopping(&self) -> Vec<String> {
        match self.manager {
            Manager::Systemd => self.systemctl(&["disable", "--now", UNIT]),
            Manager::Launchd => launchctl(&["bootout", &format!("{}/{LABEL}", self.domain())]),
        }
    }

    /// launchd ends a service after its command has come back: until then it takes no other of its name.
    fn wait_until_gone(&self) -> Result<(), ServiceError> {
        if self.manager == Manager::Systemd {
            return Ok(());
        }
        let look = launchctl(&["print", &format!("{}/{LABEL}", self.domain())]);
        for _ in 0..GONE_LOOKS {
            match run(&look) {
                Ok(()) => pause(),
                // It says so by failing; one that cannot be run has failed before.
                Err(_) => return Ok(()),
            }
        }
        let problem = format!("still shows the service after {STOP_SECONDS} s");
        Err(ServiceError::Command { command: look.join(" "), problem })
    }

    fn systemctl(&self, words: &[&str]) -> Vec<String> {
        let user: &[&str] = if self.user { &["--user"] } else { &[] };
        [&["systemctl"], user, words].concat().into_iter().map(String::from).collect()
    }

    fn domain(&self) -> String {
        if self.user {
            format!("gui/{}", rustix::process::getuid().as_raw())
        } else {
            "system".into()
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command of the shell waits for another program")]
fn pause() {
    std::thread::sleep(GONE_LOOK);
}

fn launchctl(words: &[&str]) -> Vec<String> {
    ["launchctl"].iter().chain(words).map(|&word| word.to_owned()).collect()
}

/// The text with the line that says who wrote it.
pub(super) fn signed(manager: Manager, text: &str) -> String {
    let mark = format!("{MARK}{}", blake3::hash(text.as_bytes()).to_hex());
    match manager {
        Manager::Systemd => format!("# {mark}\n{text}"),
        // XML wants its declaration first.
        Manager::Launchd => format!("{text}<!-- {mark} -->\n"),
    }
}

/// Whose work a file is: none when it is ours, unchanged.
fn stranger(text: &str) -> Option<&'static str> {
    let (marked, rest): (Vec<&str>, Vec<&str>) =
        text.split_inclusive('\n').partition(|line| line.contains(MARK));
    let Some(line) = marked.first() else { return Some("written by somebody else") };
    let hash = blake3::hash(rest.concat().as_bytes()).to_hex();
    (!line.contains(hash.as_str())).then_some("changed after it was installed")
}

/// Refuses a file that is there and not ours.
fn ours(path: &Path, force: bool) -> Result<bool, ServiceError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(disk("read", path)(source)),
    };
    match stranger(&String::from_utf8_lossy(&bytes)) {
        Some(by) if !force => Err(ServiceError::Foreign { path: path.to_path_buf(), by }),
        _ => Ok(true),
    }
}

/// Writes the service file and has the manager start the program; what was done, a line each.
///
/// # Errors
/// [`ServiceError::Foreign`], [`ServiceError::Disk`]: the file is as it was.
/// [`ServiceError::Command`]: it is in its place, but the manager refused it.
pub fn install(place: &Place, text: &str, force: bool) -> Result<Vec<String>, ServiceError> {
    let path = place.path()?;
    let there = ours(&path, force)?;
    write(&path, &signed(place.manager, text))?;
    let mut done = vec![format!("wrote {}", path.display())];
    if place.root.is_some() {
        done.push("ran no command: another root is not this machine".into());
        return Ok(done);
    }
    if there && place.manager == Manager::Launchd {
        // launchd takes no second file of the same name; that none is loaded is no failure.
        let _ = run(&place.stopping());
        place.wait_until_gone()?;
    }
    for command in place.starting(&path) {
        run(&command)?;
        done.push(format!("ran {}", command.join(" ")));
    }
    Ok(done)
}

/// Has the manager stop the program, and removes the service file; what was done, a line each.
///
/// # Errors
/// As [`install`]; [`ServiceError::Command`] when the program could not be stopped: the file stays.
pub fn uninstall(place: &Place, force: bool) -> Result<Vec<String>, ServiceError> {
    let path = place.path()?;
    if !ours(&path, force)? {
        return Ok(vec![format!("{} is not there: nothing to do", path.display())]);
    }
    let mut done = Vec::new();
    if place.root.is_none() {
        run(&place.stopping())?;
        place.wait_until_gone()?;
        done.push(format!("ran {}", place.stopping().join(" ")));
    }
    fs::remove_file(&path).map_err(disk("remove", &path))?;
    done.push(format!("removed {}", path.display()));
    if place.root.is_none() && place.manager == Manager::Systemd {
        let command = place.systemctl(&["daemon-reload"]);
        run(&command)?;
        done.push(format!("ran {}", command.join(" ")));
    }
    done.push("the state folder and the configuration stay as they are".into());
    Ok(done)
}

fn disk<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ServiceError + 'a {
    move |source| ServiceError::Disk { doing, path: path.to_path_buf(), source }
}

/// Writes a file so that a cut leaves the old one or the new one.
fn write(path: &Path, text: &str) -> Result<(), ServiceError> {
    let failed = disk("write", path);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let new = path.with_extension("new");
    let put = || {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    put().map_err(failed)
}

fn run(words: &[String]) -> Result<(), ServiceError> {
    let failed = |problem| ServiceError::Command { command: words.join(" "), problem };
    let [program, arguments @ ..] = words else { return Ok(()) };
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(failed(format!("ended with {}: {}", done.status, said.trim())))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn places(root: &Path) -> [Place; 2] {
        [Manager::Systemd, Manager::Launchd].map(|manager| Place {
            manager,
            user: false,
            root: Some(root.to_path_buf()),
        })
    }

    #[test]
    fn what_was_installed_is_replaced_and_removed() {
        let root = tempfile::tempdir().unwrap();
        for place in places(root.path()) {
            install(&place, "first\n", false).unwrap();
            install(&place, "second\n", false).unwrap();
            let path = place.path().unwrap();
            assert!(path.starts_with(root.path()));
            assert!(fs::read_to_string(&path).unwrap().contains("second\n"));
            let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
            assert_eq!(left, 1, "a file was left beside it");
            uninstall(&place, false).unwrap();
            assert!(!path.exists());
            assert!(uninstall(&place, false).unwrap()[0].contains("nothing to do"));
        }
    }

    #[test]
    fn what_somebody_else_wrote_or_changed_stays() {
        let root = tempfile::tempdir().unwrap();
        for place in places(root.path()) {
            let path = place.path().unwrap();
            install(&place, "ours\n", false).unwrap();
            let changed = fs::read_to_string(&path).unwrap().replace("ours\n", "ours\nand more\n");
            for foreign in [changed, "[Service]\n".to_owned()] {
                fs::write(&path, &foreign).unwrap();
                let refused = install(&place, "new\n", false).unwrap_err();
                assert!(matches!(refused, ServiceError::Foreign { .. }), "{refused}");
                assert!(uninstall(&place, false).is_err());
                assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
            }
            install(&place, "new\n", true).unwrap();
            assert_eq!(stranger(&fs::read_to_string(&path).unwrap()), None);
        }
    }

    #[test]
    fn commands_are_those_of_the_manager_and_the_session() {
        let place = |manager, user| Place { manager, user, root: None };
        let path = Path::new("/x.plist");
        let words = |all: Vec<Vec<String>>| all.iter().map(|w| w.join(" ")).collect::<Vec<_>>();
        let system = words(place(Manager::Systemd, false).starting(path));
        assert_eq!(system[0], "systemctl daemon-reload");
        let user = words(place(Manager::Systemd, true).starting(path));
        assert_eq!(user[2], "systemctl --user restart sapwood.service");
        let mac = words(place(Manager::Launchd, false).starting(path));
        assert_eq!(mac, ["launchctl bootstrap system /x.plist"]);
        let stop = place(Manager::Launchd, false).stopping().join(" ");
        assert_eq!(stop, "launchctl bootout system/org.sapwood.firmware-host");
    }
}
