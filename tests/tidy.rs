//! House rules that the compiler does not know: promises first, one direction of use, one door each.
//!
//! Every rule is a function from text to complaints, so that each is also shown what it forbids.
//! A rule reads plain text, not syntax: comments and the test modules at the end of a file are cut.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Lines of a source file that need no reason.
const LINES_MAX: usize = 500;
/// Files that are longer, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// The one stage that knows all others.
const KNOWS_ALL: &str = "learner";

/// Where the device program's modules lie.
const DEVICE: &str = "firmware-host/src/";

/// Where TLS is spoken.
const TLS: &[&str] =
    &["protocol/connections/src/tls.rs", "tools/fleet-server/src/serve/", "tools/hub/src/web.rs"];

/// What only some places may name, and those places (beginnings of paths).
const DOORS: [(&str, &[&str]); 16] = [
    ("tract_onnx", &["src/trunk"]),
    ("tract_linalg", &["src/trunk"]),
    ("candle_core", &["src/base/gguf/weights.rs", "src/head/candle/", "src/head/mod.rs"]),
    ("candle_metal_kernels", &["src/head/candle/backend.rs"]),
    ("ed25519_dalek", &["protocol/src/fleet/key.rs"]),
    ("rustls", TLS),
    ("tokio_rustls", TLS),
    ("ureq", &["tools/hub/src/"]),
    ("rusqlite", &["tools/fleet-server/src/store/sqlite.rs", "tools/fleet-server/tests/"]),
    ("tokio_postgres", &["tools/fleet-server/src/store/postgres/"]),
    ("tokenizers", &["src/tokenise"]),
    ("llguidance", &["src/constrain/tokens.rs"]),
    ("rkyv", &["src/reservoir/", "src/state/"]),
    ("prost", &["src/base/", "src/trunk", "fuzz/"]),
    ("clap", &["src/cli/", "src/main.rs", "firmware-host/", "tools/"]),
    (
        "fs",
        &[
            "src/ports.rs",
            "src/intake/",
            "src/base/",
            "src/tokenise",
            "src/trunk",
            "src/cli/",
            "src/main.rs",
            "firmware-host/",
            "fuzz/",
            "tools/",
        ],
    ),
];

/// Where a file may be taken by path from another crate: no crate can depend on what is built without
/// engines and under other flags.
const TAKEN_BY_PATH: [&str; 2] = ["tools/counts/", "tools/sanitize/"];

/// A file of the repository: its path from the root, and its text.
type Source = (String, String);

/// Every file under the root whose name ends in one of `endings`, in order.
fn sources(endings: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && ![".git", "target", "__pycache__"].contains(&name.as_str()) {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending))
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                files.push((path, text));
            }
        }
    }
    files.sort();
    assert!(files.len() > 10, "the walk found next to nothing");
    files
}

/// The text without comments and without the test module at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let uncommented = |line: &str| line.split("//").next().unwrap_or_default().to_owned() + "\n";
    text.lines().map(uncommented).collect()
}

/// Whether the path is a test's own.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The names that follow `before` in a text, where `before` is not the end of a longer name.
fn names_after<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let name = |at: usize| {
        let rest = &text[at + before.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        &rest[..end.unwrap_or(rest.len())]
    };
    let starts = text.match_indices(before).filter(|(at, _)| begins_name(text, *at));
    starts.map(|(at, _)| name(at)).collect()
}

fn begins_name(text: &str, at: usize) -> bool {
    !text[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

/// Rule: the first line of a file is its promise.
fn promise(path: &str, text: &str) -> Option<String> {
    let kept = text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() >= 20);
    (!kept).then(|| format!("{path}: expected its promise, `//! ...`, in the first line"))
}

/// Rule: a file stays readable in one sitting.
fn length(path: &str, lines: usize) -> Option<String> {
    excepted(&LONG_FILES, path, lines)
}

fn excepted(exceptions: &[(&str, &str)], path: &str, lines: usize) -> Option<String> {
    let listed = exceptions.iter().any(|(long, _)| *long == path);
    match (lines > LINES_MAX, listed) {
        (true, false) => Some(format!("{path}: {lines} lines, expected at most {LINES_MAX}")),
        (false, true) => Some(format!("{path}: {lines} lines, no longer needs its exception")),
        _ => None,
    }
}

/// The modules that a file lists, in its order.
fn listed(text: &str) -> Vec<&str> {
    text.lines().filter_map(module).collect()
}

fn module(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("mod ")?;
    let (name, _) = rest.split_once(';')?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

/// The modules of a crate in the order of its `lib.rs`, below `root`.
struct Flow<'a> {
    root: &'a str,
    modules: Vec<&'a str>,
}

/// Rule: a module uses only the modules above it.
fn order(path: &str, code: &str, flow: &Flow<'_>) -> Vec<String> {
    let Flow { root, modules } = flow;
    let inside = path.strip_prefix(root).unwrap_or_default();
    let module = inside.split(['/', '.']).next().unwrap_or_default();
    let Some(place) = modules.iter().position(|name| *name == module) else { return Vec::new() };
    if module == KNOWS_ALL {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for used in names_after(code, "crate::") {
        let below = modules.iter().position(|name| *name == used).is_some_and(|at| at > place);
        if below {
            complaints.push(format!("{path}: `{module}` uses `{used}`, which is below it"));
        } else if used.is_empty() {
            complaints.push(format!("{path}: expected one `use crate::module` a line, got `{{`"));
        }
    }
    complaints
}

/// Rule: within a folder too, a file uses only the files that its folder lists above it.
fn order_within(path: &str, code: &str, listed: &[&str]) -> Vec<String> {
    let file = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let Some(place) = listed.iter().position(|name| *name == file) else { return Vec::new() };
    let below = &listed[place + 1..];
    let groups = code.split("super::{").skip(1);
    let grouped = groups
        .filter_map(|rest| rest.split('}').next())
        .flat_map(|group| group.split(|letter: char| !letter.is_alphanumeric() && letter != '_'));
    let used: BTreeSet<&str> = names_after(code, "super::").into_iter().chain(grouped).collect();
    let wrong = used.into_iter().filter(|name| below.contains(name));
    wrong.map(|name| format!("{path}: uses `{name}`, which its folder lists below it")).collect()
}

/// The file that lists what is in the folder of `path`.
fn lister<'a>(path: &str, files: &'a [Source]) -> Option<&'a str> {
    let (folder, _) = path.rsplit_once('/')?;
    let names = [format!("{folder}/mod.rs"), format!("{folder}.rs")];
    files.iter().find(|(path, _)| names.contains(path)).map(|(_, text)| text.as_str())
}

/// Rule: an engine, or the disk, is named at its doors only.
fn doors(path: &str, code: &str) -> Vec<String> {
    let opens = |(name, places): &(&str, &[&str])| {
        let named = code.match_indices(&format!("{name}::")).any(|(at, _)| begins_name(code, at))
            || code.contains(&format!("use {name};"))
            || (*name == "fs" && code.contains("use std::fs"));
        let open = places.iter().any(|place| path.starts_with(place));
        (named && !open).then(|| format!("{path}: `{name}` is named, expected only in {places:?}"))
    };
    DOORS.iter().filter_map(opens).collect()
}

/// Rule: a crate depends on another; it does not take its files.
fn taken(path: &str, code: &str) -> Option<String> {
    let taken = code.lines().any(|line| line.trim_start().starts_with("#[path"));
    let may = TAKEN_BY_PATH.iter().any(|place| path.starts_with(place));
    (taken && !may).then(|| format!("{path}: a module by `#[path]`, expected a dependency"))
}

/// Rule: nothing speaks of the machine that it was written on.
fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let homes = ["work", "home", "root", "Users"].map(|folder| format!("/{folder}/"));
    let begins = |line: &str, at: usize| {
        !line[..at]
            .ends_with(|letter: char| letter.is_alphanumeric() || "_-.)}>/*".contains(letter))
    };
    let speaks = |line: &str| {
        homes.iter().any(|home| line.match_indices(home.as_str()).any(|(at, _)| begins(line, at)))
    };
    let numbered = text.lines().enumerate().filter(|(_, line)| speaks(line));
    numbered.map(|(at, line)| format!("{path}:{}: `{}`", at + 1, line.trim())).collect()
}

/// Rule: every dependency has a reason in ARCHITECTURE.md, and no reason outlives its dependency.
fn reasons(manifest: &str, architecture: &str) -> Vec<String> {
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let outside = section.lines().filter(|line| !line.contains("path = "));
    let names = outside.filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()));
    let wanted: BTreeSet<&str> = names.filter(|name| !name.starts_with('#')).collect();
    let table = architecture.split("## Dependencies").nth(1).unwrap_or_default();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let given: BTreeSet<&str> = cells.flat_map(|cell| cell.split(',')).map(str::trim).collect();
    let missing = wanted.difference(&given).map(|name| format!("{name}: no reason is given"));
    let spare = given.difference(&wanted).filter(|name| **name != "crate");
    missing.chain(spare.map(|name| format!("{name}: a reason, but no dependency"))).collect()
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_opens_with_its_promise() {
    let files = sources(&[".rs"]);
    let complaints: Vec<String> =
        files.iter().filter_map(|(path, text)| promise(path, text)).collect();
    assert_none(&complaints);
}

#[test]
fn long_files_have_a_reason() {
    let files = sources(&[".rs"]);
    let complaints: Vec<String> =
        files.iter().filter_map(|(path, text)| length(path, text.lines().count())).collect();
    assert_none(&complaints);
}

#[test]
fn a_module_uses_only_the_modules_above_it() {
    let files = sources(&[".rs"]);
    for root in ["src/", DEVICE] {
        let lib = format!("{root}lib.rs");
        let (_, lib) = files.iter().find(|(path, _)| *path == lib).unwrap();
        let flow = Flow { root, modules: listed(lib) };
        let modules = &flow.modules;
        assert!(root == DEVICE || modules.last() == Some(&KNOWS_ALL), "{modules:?}");
        assert!(modules.len() > 10, "{root}: {modules:?}");
        let inside = files.iter().filter(|(path, _)| path.starts_with(root) && !is_test(path));
        let complaints: Vec<String> =
            inside.flat_map(|(path, text)| order(path, &code(text), &flow)).collect();
        assert_none(&complaints);
    }
}

#[test]
fn a_file_of_the_device_program_uses_only_the_files_above_it() {
    let files = sources(&[".rs"]);
    let inside = files.iter().filter(|(path, _)| path.starts_with(DEVICE) && !is_test(path));
    let listed_in = inside.filter_map(|one| Some((one, listed(lister(&one.0, &files)?))));
    let mut seen = 0;
    let within = |((path, text), listed): (&Source, Vec<&str>)| {
        seen += 1;
        order_within(path, &code(text), &listed)
    };
    let complaints: Vec<String> = listed_in.flat_map(within).collect();
    assert!(seen > 40, "{seen} files");
    assert_none(&complaints);
}

#[test]
fn each_engine_and_the_disk_have_one_door() {
    let files = sources(&[".rs"]);
    let shipped = files.iter().filter(|(path, _)| path.contains("src/") && !is_test(path));
    let complaints: Vec<String> =
        shipped.flat_map(|(path, text)| doors(path, &code(text))).collect();
    assert_none(&complaints);
}

#[test]
fn no_crate_takes_the_files_of_another() {
    let files = sources(&[".rs"]);
    let complaints: Vec<String> =
        files.iter().filter_map(|(path, text)| taken(path, &code(text))).collect();
    assert_none(&complaints);
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    let files = sources(&[".rs", ".toml", ".md", ".py", ".sh", ".json", ".jsonl", "run", ".txt"]);
    let complaints: Vec<String> =
        files.iter().flat_map(|(path, text)| machine_paths(path, text)).collect();
    assert_none(&complaints);
}

#[test]
fn every_dependency_has_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [manifest, architecture] =
        ["Cargo.toml", "ARCHITECTURE.md"].map(|file| fs::read_to_string(root.join(file)).unwrap());
    assert_none(&reasons(&manifest, &architecture));
}

#[test]
fn every_rule_finds_what_it_forbids() {
    assert!(promise("a.rs", "use std::fs;\n").is_some());
    assert!(promise("a.rs", "//! x\n").is_some());
    let exception = [("b.rs", "a table")];
    let said = |path, lines| excepted(&exception, path, lines).is_some();
    assert!(length("a.rs", LINES_MAX + 1).is_some() && said("b.rs", 10));
    assert!(!said("b.rs", LINES_MAX + 1) && !said("a.rs", LINES_MAX));
    let gone: Vec<_> = LONG_FILES
        .iter()
        .filter(|(path, _)| !Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file())
        .collect();
    assert!(gone.is_empty(), "exceptions for files that are gone: {gone:?}");

    let lib =
        "pub mod ports; // doors\n#[cfg(feature = \"engine\")]\npub mod head;\npub mod learner;\n";
    let flow = Flow { root: "src/", modules: listed(lib) };
    assert_eq!(flow.modules, ["ports", "head", "learner"]);
    assert_eq!(order("src/ports.rs", "use crate::head::Head;", &flow).len(), 1);
    assert_eq!(order("src/ports.rs", "use crate::{head, ports};", &flow).len(), 1);
    assert!(order("src/head/mod.rs", "use crate::ports::Disk;", &flow).is_empty());
    assert!(order("src/learner/mod.rs", "use crate::head::Head;", &flow).is_empty());
    let device = Flow { root: DEVICE, modules: vec!["status", "intake"] };
    let [status, intake] = ["status", "intake"].map(|name| format!("{DEVICE}{name}/mod.rs"));
    assert_eq!(order(&status, "x: crate::intake::Counters", &device).len(), 1);
    assert!(order(&intake, "use crate::status::Counters;", &device).is_empty());

    let folder =
        listed("mod tests {\nmod shared;\npub(crate) mod text;\n    mod other;\nmod routes;");
    assert_eq!(folder, ["shared", "text", "routes"]);
    let text = |code| order_within("serve/text.rs", code, &folder).len();
    assert_eq!(text("use super::routes::Shared;"), 1);
    assert_eq!(text("use super::{Draw, Model,\n    routes};"), 1);
    assert_eq!(text("use super::shared::Shared;\nuse super::{Draw, shared};\nroutes::x()"), 0);
    assert_eq!(order_within("serve/mod.rs", "use super::routes;", &folder).len(), 0);

    assert_eq!(doors("src/gate/mod.rs", "let x = candle_core::Tensor::new();").len(), 1);
    assert_eq!(doors("src/gate/mod.rs", "use std::fs::File;").len(), 1);
    assert!(doors("src/gate/mod.rs", "offs::x(); my_rkyv::y();").is_empty());
    let commented =
        "// candle_core::Tensor\nlet x = 1; // fs::read\n#[cfg(test)]\nmod tests {\nfs::x";
    assert!(doors("src/gate/mod.rs", &code(commented)).is_empty());

    assert!(taken("fuzz/checks/src/lib.rs", "#[path = \"../x.rs\"]\nmod x;").is_some());
    assert!(taken("tools/sanitize/lib.rs", "#[path = \"../x.rs\"]\nmod x;").is_none());

    let home = ["see /ho", "me/someone"].concat();
    assert_eq!(machine_paths("a.md", &home).len(), 1);
    assert!(machine_paths("a.md", "frame/work/plans and host.example/home/x").is_empty());

    let manifest =
        "[workspace.dependencies]\nown = { path = \".\" }\nclap = \"4\"\n[package]\nname = \"x\"";
    let table = "## Dependencies\n| crate | reason |\n| gone | was needed |\n";
    assert_eq!(reasons(manifest, table).len(), 2);
}
