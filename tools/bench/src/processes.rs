//! The other processes: our own worker, `peer.py`, and what went wrong in one, in a line.

use crate::measure::Line;
use crate::works::{BLOCKS, Kind, Peer, TOKENS, Work};
use anyhow::{Context, Result, bail};
use sapwood::settings::Device;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The script, where this program was built.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peer.py");

/// How processes are started: the interpreter, and the threads of every side.
pub(crate) struct Processes {
    /// `--python`
    pub(crate) python: PathBuf,
    /// Where every side computes.
    pub(crate) device: Device,
    /// Threads, at least 1.
    pub(crate) threads: usize,
}

/// The files of one work.
pub(crate) struct Files {
    /// The Hugging Face folder.
    pub(crate) hugging_face: PathBuf,
    /// The model folder that was exported from it.
    pub(crate) model: PathBuf,
    /// The folder of the adapters `fast` and `slow`.
    pub(crate) adapters: PathBuf,
    /// The ONNX file that ends at the tap.
    pub(crate) trunk: PathBuf,
    /// V.
    pub(crate) vocab: usize,
}

impl Processes {
    /// Rate of f32 matrix products, GFLOP/s.
    ///
    /// # Errors
    /// As [`Self::ours`].
    pub(crate) fn peak(&self) -> Result<f64> {
        let output = self.output(self.own()?.arg("peak"), "the GEMM measurement")?;
        output.trim().parse().with_context(|| format!("expected GFLOP/s, got {output:?}"))
    }

    /// One measurement of our side; `repeats`: steps without and with a clock.
    ///
    /// # Errors
    /// The last line that the worker complained with.
    pub(crate) fn ours(&self, work: &Work, files: &Files, repeats: [usize; 2]) -> Result<Line> {
        let mut command = self.own()?;
        command.args(["measure", "--work", work.name]);
        command.arg("--model").arg(&files.model).arg("--adapters").arg(&files.adapters);
        self.repeated(&mut command, repeats);
        Line::parse(&self.output(&mut command, "Sapwood")?)
    }

    /// One measurement of a peer.
    ///
    /// # Errors
    /// The last line that Python complained with.
    pub(crate) fn theirs(
        &self,
        peer: Peer,
        work: &Work,
        files: &Files,
        repeats: [usize; 2],
    ) -> Result<Line> {
        let mut command = self.script();
        match work.kind {
            Kind::Trunk { .. } => {
                command.args(["trunk", "--vocabulary", &files.vocab.to_string()]);
                command.arg("--model").arg(&files.trunk);
            }
            Kind::Step { replay, .. } => {
                let dtype = match peer {
                    Peer::TorchBf16 => "bf16",
                    Peer::TorchBf16Weights => "bf16-weights",
                    Peer::TorchF32 | Peer::OnnxRuntime => "f32",
                };
                command.args(["step", "--dtype", dtype, "--replay", &replay.to_string()]);
                command.arg("--model").arg(&files.hugging_face);
                command.arg("--adapters").arg(&files.adapters);
            }
        }
        command.args(["--blocks", &BLOCKS.to_string(), "--tokens", &TOKENS.to_string()]);
        self.repeated(&mut command, repeats);
        Line::parse(&self.output(&mut command, peer.title())?)
    }

    /// Lets the script make something.
    ///
    /// # Errors
    /// As [`Self::theirs`].
    pub(crate) fn make<'a>(
        &self,
        what: &str,
        flags: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<()> {
        self.output(self.script().arg(what).args(flags), &format!("peer.py {what}"))?;
        Ok(())
    }

    fn own(&self) -> Result<Command> {
        Ok(Command::new(std::env::current_exe().context("this program cannot find itself")?))
    }

    fn script(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(Path::new(SCRIPT));
        command
    }

    fn repeated(&self, command: &mut Command, [warm_up, steps]: [usize; 2]) {
        command.args(["--device", &self.device.to_string()]);
        command.args(["--threads", &self.threads.to_string()]);
        command.args(["--warm-up", &warm_up.to_string(), "--steps", &steps.to_string()]);
    }

    /// What a process prints, once it ended well.
    fn output(&self, command: &mut Command, who: &str) -> Result<String> {
        for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(name, self.threads.to_string());
        }
        let program = command.get_program().to_owned();
        let output = command.output().with_context(|| {
            format!(
                "cannot start {}; --python names an interpreter with tools/bench/requirements.txt \
                 installed",
                program.display()
            )
        })?;
        if !output.status.success() {
            bail!("{who} failed, {}: {}", output.status, last_line(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(|| format!("{who} printed no text"))
    }
}

/// The last line of a complaint that says something, without the progress bars before it.
fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let last = text.split(['\n', '\r']).rev().map(str::trim).find(|line| !line.is_empty());
    match last {
        None => "it gave no reason".to_owned(),
        Some(line) if line.contains("No module named") => {
            format!("{line}; --python needs tools/bench/requirements.txt installed")
        }
        Some(line) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_complaint_is_its_last_line() {
        let text = b"Traceback:\n  File\nLoading:  3%\rLoading: 9%\nValueError: no such layer\n\n";
        assert_eq!(last_line(text), "ValueError: no such layer");
        assert!(last_line(b"ModuleNotFoundError: No module named 'peft'").contains("requirements"));
        assert_eq!(last_line(b""), "it gave no reason");
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let processes =
            Processes { python: "no/such/python".into(), device: Device::Cpu, threads: 1 };
        let error = processes.make("shape", []).unwrap_err();
        assert!(error.to_string().contains("no/such/python"), "{error}");
    }
}
