//! Where the head computes: opening a device, or saying why it cannot be had and what to do.
//!
//! - In: what the user asked for. Out: a device of candle.
//! - A device asked for by name is that device or an error. `auto` is the first of CUDA, Metal and
//!   CPU that can be had; one that this build knows and could not have is told, never hidden.
//! - Invariant: nothing here panics where a device is absent; candle would, for Metal.

use super::HeadError;
use crate::settings::Device as Choice;
use candle_core::{Device, DeviceLocation};

/// Where the head runs.
#[derive(Clone, Debug)]
pub struct Backend {
    device: Device,
    notice: Option<String>,
}

impl Backend {
    /// Opens a device; `auto` takes the best one that this build and this machine have.
    ///
    /// # Errors
    /// [`HeadError::Device`] when the device is absent or not built in.
    pub fn open(asked: Choice) -> Result<Self, HeadError> {
        let device = match asked {
            Choice::Auto => return Ok(Self::best()),
            Choice::Cpu => Device::Cpu,
            Choice::Cuda(index) => cuda(index).map_err(|why| refusal(asked, why))?,
            Choice::Metal => metal().map_err(|why| refusal(asked, why))?,
        };
        Ok(Self { device, notice: None })
    }

    /// The first device that this build knows and that opens, else the CPU.
    fn best() -> Self {
        let known = [
            (Choice::Cuda(0), candle_core::utils::cuda_is_available()),
            (Choice::Metal, candle_core::utils::metal_is_available()),
        ];
        let mut refused = Vec::new();
        for (choice, _) in known.into_iter().filter(|(_, known)| *known) {
            match Self::open(choice) {
                Ok(backend) => return backend,
                Err(HeadError::Device { asked, why }) => refused.push(format!("{asked}: {why}")),
                Err(error) => refused.push(error.to_string()),
            }
        }
        let notice = (!refused.is_empty()).then(|| on_cpu(&refused.join("; ")));
        Self { device: Device::Cpu, notice }
    }

    /// The CPU in place of this device, which opened and then could not serve.
    pub fn passed_over(&self, why: &str) -> Self {
        Self { device: Device::Cpu, notice: Some(on_cpu(&format!("{}: {why}", self.name()))) }
    }

    /// The host's own processor.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, notice: None }
    }

    /// Whether this is the host's own processor.
    pub fn is_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// `cpu`, `cuda:0` or `metal`.
    pub fn name(&self) -> String {
        match self.device.location() {
            DeviceLocation::Cpu => "cpu".into(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            // Metal's own number is a registry entry, long and of no use to anyone.
            DeviceLocation::Metal { .. } => "metal".into(),
        }
    }

    /// What `auto` passed over on its way to the CPU, in one sentence.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// candle's own handle.
    pub(in crate::head) fn device(&self) -> &Device {
        &self.device
    }
}

fn on_cpu(why: &str) -> String {
    format!("--device auto computes on the CPU: {why}")
}

fn refusal(asked: Choice, why: String) -> HeadError {
    HeadError::Device { asked: asked.to_string(), why }
}

fn cuda(index: usize) -> Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no CUDA (cargo feature `cuda`)".into());
    }
    Device::new_cuda(index).map_err(|error| first_line(&error))
}

fn metal() -> Result<Device, String> {
    if !candle_core::utils::metal_is_available() {
        return Err("this build has no Metal (cargo feature `metal`)".into());
    }
    if metal_devices() == 0 {
        return Err("this Mac shows no Metal device to this process".into());
    }
    Device::new_metal(0).map_err(|error| first_line(&error))
}

/// How many devices Metal lists: candle takes the first without looking, and panics where the list
/// is empty, as in many virtual machines and sessions without a screen.
fn metal_devices() -> usize {
    #[cfg(all(feature = "metal", target_os = "macos"))]
    return candle_metal_kernels::metal::Device::all().len();
    #[cfg(not(all(feature = "metal", target_os = "macos")))]
    0
}

/// candle puts a backtrace below its message when the environment asks for one.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
