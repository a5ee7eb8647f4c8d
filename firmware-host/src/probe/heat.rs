//! How hot the device is: thermal zones by type, and the processor's own sensors.
//!
//! - In: `class/thermal/thermal_zone*/{type,temp}` and `class/hwmon/hwmon*/{name,temp*_input}`.
//! - A zone that cannot be read is skipped: on an Orin those of the parts that are switched off answer
//!   EAGAIN for as long as they are.
//! - Source: the kernel's `thermal/sysfs-api` and `hwmon/sysfs-interface`; millidegrees Celsius.

use super::files;
use std::path::Path;

/// Chips that sit in a processor; a bare x86 may have no other sensor, or a zone that always says 27.8.
const PROCESSOR_CHIPS: [&str; 4] = ["coretemp", "k10temp", "zenpower", "cpu_thermal"];
/// A sensor outside these is broken or switched off: Tegra reports -256 then.
const CELSIUS: std::ops::RangeInclusive<f32> = -50.0..=200.0;

/// One sensor that could be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sensor {
    /// Type of the zone, or name of the chip.
    pub(super) kind: String,
    /// The file.
    pub(super) source: String,
    /// What it says, in degrees Celsius.
    pub(super) celsius: f32,
}

/// Every sensor that counts: with `types` those whose kind begins with one of them, otherwise all
/// thermal zones and the processor's chips.
pub(super) fn sensors(sys: &Path, types: &[String]) -> Vec<Sensor> {
    let counts = |kind: &str| types.iter().any(|wanted| kind.starts_with(wanted.as_str()));
    let mut found = Vec::new();
    for zone in files::entries(&sys.join("class/thermal"), "thermal_zone") {
        let Some(kind) = files::value(&zone.join("type")) else { continue };
        if types.is_empty() || counts(&kind) {
            found.extend(sensor(kind, &zone.join("temp")));
        }
    }
    for chip in files::entries(&sys.join("class/hwmon"), "hwmon") {
        let Some(kind) = files::value(&chip.join("name")) else { continue };
        let processor = types.is_empty() && PROCESSOR_CHIPS.contains(&kind.as_str());
        if processor || counts(&kind) {
            let inputs = files::entries(&chip, "temp").into_iter();
            let inputs = inputs.filter(|path| files::name(path).ends_with("_input"));
            found.extend(inputs.filter_map(|input| sensor(kind.clone(), &input)));
        }
    }
    found
}

fn sensor(kind: String, file: &Path) -> Option<Sensor> {
    let celsius = files::whole(file)? as f32 / 1_000.0;
    CELSIUS.contains(&celsius).then(|| Sensor { kind, source: file.display().to_string(), celsius })
}

/// The hottest.
pub(super) fn hottest(sensors: &[Sensor]) -> Option<&Sensor> {
    sensors.iter().max_by(|one, other| one.celsius.total_cmp(&other.celsius))
}
