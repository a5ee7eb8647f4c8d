//! State folders that are refused, and jobs that fail: what was committed before still works.

use super::fixture::{Held, accepted, copy, files, fixture, refusal, refused, sapwood};
use sapwood::ports::Disk;
use sapwood_tiny as tiny;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A job on the state that has learned, over the second domain.
fn job(held: &Held, more: &[&str]) -> Vec<String> {
    fixture().job(&held.state, &fixture().at("door.jsonl"), more)
}

#[test]
fn a_second_process_on_the_same_state_is_refused() {
    let held = fixture().learned();
    let first = Disk::exclusive(&held.state).unwrap();
    refused(&job(&held, &[]), &["in use by another process"]);
    let state = held.state.display().to_string();
    refused(&["rollback", "--state", &state], &["in use by another process"]);
    fixture().assert_works(&held.state);
    drop(first);
    accepted(&job(&held, &["--iters", "2"]));
}

#[test]
fn a_state_that_is_not_there_is_not_made_by_looking() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("nope").display().to_string();
    let model = fixture().text("model");
    refused(&["replay", "stats", "--state", &state], &["there is no state folder", "nope"]);
    refused(&["rollback", "--state", &state], &["there is no state folder", "nope"]);
    refused(
        &["generate", "--model", &model, "--state", &state, "-p", "x"],
        &["there is no state folder", "nope"],
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_state_before_its_first_commit_says_so() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().display().to_string();
    let model = fixture().text("model");
    refused(&["replay", "stats", "--state", &state], &["no reservoir yet"]);
    refused(
        &["generate", "--model", &model, "--state", &state, "-p", "x"],
        &["no committed adapter"],
    );
    refused(&["rollback", "--state", &state], &["nothing to roll back to"]);
}

#[test]
fn a_folder_of_other_things_is_no_state_and_loses_none_of_them() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("mine");
    fs::create_dir_all(folder.join("adapters/precious")).unwrap();
    for name in ["notes.txt", "checkpoint", "adapters/precious/adapter_model.safetensors"] {
        fs::write(folder.join(name), "mine").unwrap();
    }
    let before = files(&folder);
    let job = fixture().job(&folder, &fixture().at("pump.jsonl"), &[]);
    refused(&job, &["mine", "notes.txt", "no state folder"]);
    assert!(files(&folder) == before);
}

#[test]
fn a_file_where_the_state_should_be_is_refused() {
    let held = fixture().learned();
    let file = held.place.path().join("file");
    fs::write(&file, "mine").unwrap();
    refused(&fixture().job(&file, &fixture().at("pump.jsonl"), &[]), &["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    // The same for a part of it: a folder that cannot be written to.
    fs::remove_dir_all(held.state.join("learner")).unwrap();
    fs::write(held.state.join("learner"), "").unwrap();
    refused(&job(&held, &[]), &["learner"]);
}

#[test]
fn a_damaged_generation_falls_back_and_a_lost_one_is_named() {
    let held = fixture().learned();
    accepted(&job(&held, &[]));
    fs::write(held.state.join("adapters/2/adapter_model.safetensors"), "x").unwrap();
    fixture().assert_works(&held.state);
    for name in ["manifest.a", "manifest.b"] {
        fs::write(held.state.join(name), "x").unwrap();
    }
    let line = refused(&job(&held, &[]), &["no generation", "nothing was changed"]);
    assert!(line.contains("manifest.a") && line.contains("manifest.b"), "{line}");
}

/// Whoever looks is told what whoever learns is told.
#[test]
fn a_state_that_is_not_whole_says_so_to_whoever_reads_it() {
    let held = fixture().learned();
    fixture().adapt(&held.state, &fixture().at("door.jsonl"), &["--iters", "2"]);
    let state = held.state.display().to_string();
    fs::remove_file(held.state.join("learner/2")).unwrap();
    let (model, data) = (fixture().text("model"), fixture().text("door.jsonl"));
    for words in [
        &["generate", "--model", &model, "--state", &state, "-p", "the ", "--max-tokens", "2"][..],
        &["eval", "--model", &model, "--state", &state, "--data", &data, "--max-seq-length", "32"],
        &["replay", "verify", "--state", &state],
    ] {
        let output = sapwood(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("learner/2") && said.contains("generation 1 is in use"), "{said}");
    }
}

/// The commit is what counts, not whether anybody reads of it.
#[test]
fn a_job_whose_last_report_finds_no_reader_says_that_it_is_done() {
    let held = fixture().learned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    command.args(job(&held, &["--iters", "2"]));
    command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let is_done = said.contains("the job is done and was kept, generation in use: 2");
    let manifest = accepted(&["rollback", "--state", &held.state.display().to_string()]);
    assert!(is_done && manifest.contains("(before: 2)"), "{said} {manifest}");
}

#[test]
fn a_state_made_with_other_settings_says_which() {
    let held = fixture().learned();
    refused(&job(&held, &["--rank", "4"]), &["rank 32", "rank 4", "unchanged"]);
    refused(&job(&held, &["--target-modules", "q_proj"]), &["unchanged"]);
    refused(&job(&held, &["--num-layers", "1"]), &["unchanged"]);
    refused(&job(&held, &["--replay-blocks", "32"]), &["reservoir", "16", "32"]);
    refused(&job(&held, &["--replay-hidden"]), &["reservoir"]);
    fixture().assert_works(&held.state);
    // What may change from job to job does.
    accepted(&job(&held, &["--batch-size", "6", "--grad-accumulation-steps", "2", "--iters", "2"]));
}

#[test]
fn there_is_nothing_to_resume_without_an_interrupted_job() {
    let held = fixture().learned();
    refused(&job(&held, &["--resume"]), &["no interrupted job", "--resume"]);
    held.assert_untouched();
}

/// Runs a job whose reader goes away at once, which stops it at its first report.
fn interrupted(held: &Held) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sapwood"))
        .args(job(held, &["--json"]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    refusal(&child.wait_with_output().unwrap(), &["cannot report progress", "--resume"]);
    assert!(held.state.join("checkpoint").exists());
}

#[test]
fn an_interrupted_job_resumes_with_its_own_data_and_settings_only() {
    let (held, whole) = (fixture().learned(), fixture().learned());
    interrupted(&held);
    fixture().assert_works(&held.state);
    refused(&job(&held, &["--resume", "--gamma", "2"]), &["--gamma", "2.0"]);
    let other = fixture().job(&held.state, &fixture().at("pump.jsonl"), &["--resume"]);
    refused(&other, &["another data set"]);
    accepted(&job(&held, &["--resume"]));
    accepted(&job(&whole, &[]));
    let made =
        |held: &Held| fs::read(held.state.join("adapters/2/adapter_model.safetensors")).unwrap();
    assert!(made(&held) == made(&whole), "the same numbers as without the interruption");
}

#[test]
fn an_interrupted_job_is_given_up_by_a_word_alone() {
    let held = fixture().learned();
    interrupted(&held);
    refused(&job(&held, &[]), &["interrupted at its step", "--resume", "--discard"]);
    assert!(held.state.join("checkpoint").exists());
    refused(&job(&held, &["--resume", "--discard"]), &["--discard"]);
    let said = accepted(&job(&held, &["--json", "--discard"]));
    assert!(
        said.lines().any(|line| line.contains("warning") && line.contains("--resume")),
        "{said}"
    );
}

/// What a job that fails leaves: nothing, where there was nothing.
#[test]
fn a_job_that_fails_leaves_no_state_folder() {
    let place = TempDir::new().unwrap();
    let (state, data) = (place.path().join("state"), fixture().at("door.jsonl"));
    refused(&fixture().job(&state, &data, &["--model", "missing"]), &["missing"]);
    assert!(!state.exists(), "made for a job that never began");
    fs::create_dir(&state).unwrap();
    refused(&fixture().job(&state, &data, &["--model", "missing"]), &["missing"]);
    assert!(state.exists(), "the user's own folder");
}

/// A base that computes as any other, until an adapter of the query and key layers has grown: what
/// these read is so large that an adapter's share of it leaves the range of f32.
fn explosive(place: &Path) -> String {
    let (hf, model) = (place.join("hf"), place.join("model"));
    let scale = |name: &str| match name {
        _ if name.contains("input_layernorm") => 1e30,
        _ if ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part)) => 1e-30,
        _ => 1.0,
    };
    tiny::write_scaled(&hf, 9, tiny::VOCAB, scale).unwrap();
    sapwood::base::export(&hf, &model, sapwood::base::ExportOptions::default()).unwrap();
    model.display().to_string()
}

#[test]
fn a_loss_that_is_no_number_stops_the_job_and_the_generation_before_stays() {
    let place = tempfile::tempdir().unwrap();
    let (state, model) = (place.path().join("state"), explosive(place.path()));
    let job = |rate: &str| {
        let flags = ["--target-modules", "q_proj,k_proj", "--save-every", "1"];
        let rate = ["--learning-rate", rate, "--warmup", "0", "--weight-decay", "0"];
        let mut job =
            fixture().job(&state, &fixture().at("door.jsonl"), &[&flags[..], &rate].concat());
        job[2].clone_from(&model);
        job
    };
    accepted(&job("1e-36"));
    let (text, data) = (state.display().to_string(), fixture().text("door.jsonl"));
    let ask = ["eval", "--model", &model, "--state", &text, "--data", &data, "--max-seq-length"];
    let score = || accepted(&[&ask[..], &["32"]].concat());
    let before = score();
    refused(&job("1"), &["loss", "must be finite", "--learning-rate"]);
    assert_eq!(score(), before);
    let said = accepted(&[job("1e-36"), vec!["--discard".to_owned()]].concat());
    assert!(said.contains("generation in use: 2"), "the next job goes on from it: {said}");
}

#[test]
fn a_folder_of_other_things_is_not_replaced_by_an_adapter() {
    let held = fixture().learned();
    let mine = held.place.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("notes.txt"), "mine").unwrap();
    let path = mine.display().to_string();
    let ask = || refused(&job(&held, &["--adapter-path", &path]), &["mine holds notes.txt"]);
    ask();
    fs::write(mine.join("adapter_config.json"), "{}").unwrap();
    ask();
    held.assert_untouched();
    assert_eq!(fs::read(mine.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(held.place.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn only_files_of_an_adapter_are_replaced_by_one() {
    let held = fixture().learned();
    let [target, left] = ["out", "out.new"].map(|name| held.place.path().join(name));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("checkpoint"), "mine").unwrap();
    let path = target.display().to_string();
    refused(&job(&held, &["--adapter-path", &path]), &["out.new holds checkpoint"]);
    held.assert_untouched();
    // What a write that was cut off left may go, and so may an adapter and an empty folder.
    fs::rename(left.join("checkpoint"), left.join("adapter_model.safetensors")).unwrap();
    fs::create_dir(&target).unwrap();
    for _ in 0..2 {
        accepted(&job(&held, &["--iters", "2", "--adapter-path", &path]));
        assert!(target.join("adapter_meta.json").is_file() && !left.exists());
    }
    // The folder that a link leads to is somebody else's.
    let link = held.place.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let path = link.display().to_string();
    refused(&job(&held, &["--adapter-path", &path]), &["link is no folder of its own"]);
    let path = target.join("adapter_meta.json").display().to_string();
    refused(&job(&held, &["--adapter-path", &path]), &["adapter_meta.json is no folder"]);
}

/// Before the job, which would be learned for nothing.
#[test]
fn a_place_that_no_adapter_can_be_written_to_is_refused_at_once() {
    let held = fixture().learned();
    let file = held.place.path().join("file");
    fs::write(&file, "mine").unwrap();
    let path = file.join("adapter").display().to_string();
    refused(&job(&held, &["--adapter-path", &path]), &["cannot look at", "file/adapter"]);
    held.assert_untouched();
    let path = file.join("deep/adapter").display().to_string();
    refused(&job(&held, &["--adapter-path", &path]), &["file/deep/adapter"]);
    held.assert_untouched();
}

#[test]
fn what_is_refused_makes_no_state() {
    let held = fixture().learned();
    let fresh = held.place.path().join("fresh");
    let wishes = ["--whitening", "3", "--anchor-blocks", "0"];
    let job = fixture().job(&fresh, &fixture().at("pump.jsonl"), &wishes);
    refused(&job, &["--whitening 3 has no effect with --anchor-blocks 0"]);
    assert!(!fresh.exists());
}

#[test]
fn an_adapter_that_the_gate_drops_leaves_the_one_before() {
    let held = fixture().learned();
    let adapter = held.place.path().join("out");
    let path = adapter.display().to_string();
    let said = accepted(&job(&held, &["--gate-new", "1", "--adapter-path", &path]));
    assert!(said.contains("generation in use: 1"), "{said}");
    assert!(!adapter.exists(), "what was dropped is not written");
    fixture().assert_works(&held.state);
}

/// Runs under a limit on the size of any file, which meets a write as a full disk does.
#[cfg(unix)]
fn with_files_below(kib: u64, args: &[String]) -> std::process::Output {
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_sapwood")])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[cfg(unix)]
#[test]
fn a_write_that_fails_leaves_the_generation_before() {
    let held = fixture().learned();
    // The learner's record and a checkpoint are larger than this, an adapter is not.
    let output = with_files_below(8, &job(&held, &[]));
    refusal(&output, &["cannot write", "unchanged"]);
    fixture().assert_works(&held.state);
    accepted(&job(&held, &["--iters", "2"]));
}

#[cfg(unix)]
#[test]
fn a_reservoir_that_finds_no_space_leaves_an_empty_state() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let job = fixture().job(&state, &fixture().at("pump.jsonl"), &[]);
    refusal(&with_files_below(2, &job), &["cannot reserve space", "reservoir"]);
    accepted(&job);
    fixture().assert_works(&state);
}

/// A small file system of its own; none where this user may not mount.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(place: &'a Path, kib: u64) -> Option<Self> {
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "sapwood-test"]).arg(place);
        let output = mount.output().ok()?;
        output.status.success().then(|| Self(place))
    }

    fn read_only(&self) -> bool {
        let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0).status();
        remount.is_ok_and(|status| status.success())
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_leave_the_generation_before() {
    let held = fixture().learned();
    let mount = held.place.path().join("mount");
    fs::create_dir(&mount).unwrap();
    // A file takes whole pages, a folder none: what the state needs, and too little for one more.
    let pages: u64 =
        files(&held.state).values().map(|bytes| (bytes.len() as u64).div_ceil(4096)).sum();
    let Some(mounted) = Mounted::new(&mount, 4 * (pages + 2)) else {
        eprintln!("skipped: this user may not mount a small file system");
        return;
    };
    let state = mount.join("state");
    copy(&held.state, &state);
    let job = fixture().job(&state, &fixture().at("door.jsonl"), &[]);
    refused(&job, &["No space left on device", "unchanged"]);
    fixture().assert_works(&state);
    if mounted.read_only() {
        refused(&job, &["Read-only file system", "unchanged"]);
        refused(&["rollback", "--state", &state.display().to_string()], &["Read-only"]);
        fixture().assert_works(&state);
    }
}
