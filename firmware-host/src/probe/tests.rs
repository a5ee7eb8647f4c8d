//! What is read from trees of files as real devices have them, and from trees that nobody should have.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use devices::{BARE_X86, FAILS, LAPTOP, ORIN_AGX, ORIN_NANO, RASPBERRY_PI};
use std::fs;
use tempfile::TempDir;

mod devices;

/// A folder that holds the files of a table.
struct Device(TempDir);

impl Device {
    fn of(table: &str) -> Self {
        let device = Self(tempfile::tempdir().unwrap());
        for line in table.lines().filter(|line| !line.is_empty()) {
            let (path, content) = line.split_once(" =").unwrap();
            device.set(path, &(content.trim().replace("\\n", "\n") + "\n"));
        }
        device
    }

    /// Writes a file, whatever was there before.
    fn set(&self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.0.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let _ = fs::remove_dir_all(&file);
        let _ = fs::remove_file(&file);
        if content.as_ref().starts_with(FAILS.as_bytes()) {
            fs::create_dir(file).unwrap();
        } else {
            fs::write(file, content).unwrap();
        }
    }

    fn probes(&self, change: impl FnOnce(&mut config::Probes)) -> SystemProbes {
        let [sys, proc] = ["sys", "proc"].map(|root| self.0.path().join(root));
        let mut config = config::Probes { sys, proc, ..config::Probes::default() };
        change(&mut config);
        SystemProbes::new(config, self.0.path().to_owned())
    }

    /// What is read once, without the disk: that one is real.
    fn read(&self) -> Readings {
        Readings { storage_bytes: None, ..self.probes(|_| {}).read() }
    }
}

#[test]
fn an_orin_nano_tells_heat_the_module_s_draw_load_and_memory() {
    let expected = Readings {
        celsius: Some(50.812),
        charging: Some(true),
        battery_percent: None,
        watts: Some((5.040 * 0.968) as f32),
        joules: None,
        load: Some(0.25),
        processor_stall_percent: Some(3.25),
        memory_bytes: Some(5_210_364 << 10),
        memory_stall_percent: Some(0.5),
        storage_bytes: None,
    };
    assert_eq!(Device::of(ORIN_NANO).read(), expected);
}

#[test]
fn an_agx_orin_s_rails_are_added_up_and_its_idle_usb_port_is_no_lack_of_power() {
    let readings = Device::of(ORIN_AGX).read();
    assert_eq!((readings.celsius, readings.load), (Some(77.281), Some(0.5)));
    assert_eq!((readings.charging, readings.battery_percent), (Some(true), None));
    let watts = 19.208 * (0.164 + 0.745) + 4.968 + 4.960 * 0.220;
    assert!((readings.watts.unwrap() - watts).abs() < 1e-4, "f32 of four products");
}

#[test]
fn the_operator_chooses_zones_chips_and_rail() {
    let device = Device::of(ORIN_AGX);
    let mut probes = device.probes(|config| {
        config.thermal_types = vec!["Tboard".into(), "GPU".into()];
        config.rail = Some("VIN_SYS_5V0".into());
    });
    let readings = probes.read();
    assert_eq!((readings.celsius, readings.watts), (Some(69.125), Some(4.968)));
    let mut absent = device.probes(|config| {
        config.thermal_types = vec!["disk".into()];
        config.rail = Some("VDD_IN".into());
    });
    let readings = absent.read();
    assert_eq!((readings.celsius, readings.watts), (None, None), "nothing else is taken for it");
    let chips = |config: &mut config::Probes| config.thermal_types = vec!["nvme".into()];
    assert_eq!(Device::of(BARE_X86).probes(chips).read().celsius, Some(91.85));
}

#[test]
fn a_laptop_on_its_battery_tells_charge_and_draw_and_the_mouse_does_not_count() {
    let device = Device::of(LAPTOP);
    let readings = device.read();
    assert_eq!(readings.celsius, Some(63.0), "a core is hotter than any zone");
    assert_eq!((readings.charging, readings.battery_percent), (Some(false), Some(57.0)));
    assert_eq!((readings.watts, readings.load), (Some(9.42), Some(0.1)));

    device.set("sys/class/power_supply/BAT0/power_now", FAILS);
    device.set("sys/class/power_supply/BAT0/current_now", "-800000");
    device.set("sys/class/power_supply/BAT0/voltage_now", "11500000");
    assert!((device.read().watts.unwrap() - 9.2).abs() < 1e-5, "by current and voltage");
}

#[test]
fn on_power_means_a_line_that_is_online_or_a_battery_that_fills() {
    // What AC says, what the battery says, whether that is power.
    let table = [
        ("1", "Charging", Some(true)),
        ("1", "Full", Some(true)),
        ("1", "Not charging", Some(true)),
        ("1", "Discharging", Some(true)),
        ("0", "Discharging", Some(false)),
        ("0", "Full", Some(false)),
        ("0", "Charging", Some(true)),
        ("0", "Unknown", Some(false)),
        ("2", "Unknown", Some(true)),
    ];
    for (online, status, expected) in table {
        let device = Device::of(LAPTOP);
        device.set("sys/class/power_supply/AC/online", online);
        device.set("sys/class/power_supply/BAT0/status", status);
        let readings = device.read();
        assert_eq!(readings.charging, expected, "{online} {status}");
        assert_eq!(readings.watts.is_some(), expected == Some(false), "{online} {status}");
    }
    // A battery and no line that tells anything.
    let alone = [("Charging", Some(true)), ("Full", Some(true)), ("Not charging", Some(true))];
    for (status, expected) in alone.into_iter().chain([("Discharging", Some(false)), ("?", None)]) {
        let device = Device::of(LAPTOP);
        device.set("sys/class/power_supply/AC/online", "?");
        device.set("sys/class/power_supply/ucsi-source-psy-USBC000:001/online", FAILS);
        device.set("sys/class/power_supply/BAT0/status", status);
        assert_eq!(device.read().charging, expected, "{status}");
    }
    let device = Device::of(LAPTOP);
    device.set("sys/class/power_supply/BAT0/present", "0");
    let readings = device.read();
    assert_eq!((readings.charging, readings.battery_percent), (Some(true), None), "taken out");
}

#[test]
fn two_batteries_count_by_what_they_hold() {
    let device = Device::of(LAPTOP);
    let set = |name: &str, value: &str| {
        device.set(&format!("sys/class/power_supply/BAT1/{name}"), value);
    };
    set("type", "Battery");
    set("status", "Full");
    set("capacity", "100");
    assert_eq!(device.read().battery_percent, Some(78.5), "the mean where one tells no energy");
    set("energy_now", "9000000");
    set("energy_full", "9000000");
    let percent = device.read().battery_percent.unwrap();
    assert!((percent - 100.0 * 38.07 / 60.0).abs() < 1e-3, "{percent}");
}

#[test]
fn a_bare_x86_tells_heat_by_its_processor_and_energy_over_the_wrap_of_its_counter() {
    let device = Device::of(BARE_X86);
    let mut probes = device.probes(|_| {});
    let readings = probes.read();
    assert_eq!((readings.celsius, readings.load), (Some(63.25), Some(0.5)));
    assert_eq!((readings.joules, readings.watts), (Some(0.0), None));
    device.set("sys/class/powercap/intel-rapl:0/energy_uj", "389013");
    device.set("sys/class/powercap/intel-rapl:1/energy_uj", "4500000");
    assert!((probes.read().joules.unwrap() - (1.0 + 2.5)).abs() < 1e-9, "1 J over the wrap");
    device.set("sys/class/powercap/intel-rapl:1/energy_uj", "");
    device.set("sys/class/powercap/intel-rapl:0/energy_uj", "1389013");
    assert!((probes.read().joules.unwrap() - 2.0).abs() < 1e-9, "the one that is left");
    device.set("sys/class/powercap/intel-rapl:0/energy_uj", FAILS);
    assert_eq!(probes.read().joules, None, "only root may read them");
}

#[test]
fn the_platform_s_counter_goes_before_the_packages_when_it_may_be_read() {
    let device = Device::of(LAPTOP);
    let mut probes = device.probes(|_| {});
    assert_eq!(probes.read().joules, Some(0.0));
    device.set("sys/class/powercap/intel-rapl:0/energy_uj", "3000000");
    device.set("sys/class/powercap/intel-rapl:1/energy_uj", "9000000");
    assert_eq!(probes.read().joules, Some(4.0));
    device.set("sys/class/powercap/intel-rapl:1/energy_uj", FAILS);
    let mut packages = device.probes(|_| {});
    packages.read();
    device.set("sys/class/powercap/intel-rapl:0/energy_uj", "3500000");
    assert_eq!(packages.read().joules, Some(0.5));
}

#[test]
fn a_raspberry_pi_tells_little_and_is_on_power() {
    let expected = Readings {
        celsius: Some(48.75),
        charging: Some(true),
        load: Some(0.05),
        memory_bytes: Some(7 << 30),
        ..Readings::default()
    };
    assert_eq!(Device::of(RASPBERRY_PI).read(), expected);
}

#[test]
fn memory_is_what_the_narrowest_control_group_leaves() {
    let device = Device::of(BARE_X86);
    let group = "sys/fs/cgroup/system.slice/sapwood.service";
    let left = |bytes: u64| assert_eq!(device.read().memory_bytes, Some(bytes));
    // 768 MiB high - (300 MiB in use - 100 MiB of cache that nobody uses).
    left((768 - 200) << 20);
    device.set(&format!("{group}/memory.high"), "max");
    left((1024 - 200) << 20);
    device.set("sys/fs/cgroup/system.slice/memory.max", "1000000000");
    left(1);
    device.set("sys/fs/cgroup/system.slice/memory.max", "10");
    left(0);
    device.set("proc/self/cgroup", "0::/../../etc\nnonsense\n5:cpu,memory\n");
    left(60_000_000 << 10);
}

#[test]
fn a_container_of_either_version_is_bound_by_its_own_limit() {
    let device = Device::of(RASPBERRY_PI);
    // Version 2 with a namespace of its own: the root is its group.
    device.set("proc/self/cgroup", "0::/\n");
    device.set("sys/fs/cgroup/memory.max", "536870912");
    device.set("sys/fs/cgroup/memory.current", "36870912");
    assert_eq!(device.read().memory_bytes, Some(500_000_000));
    // Version 1: the path is the host's, which cannot be seen from inside.
    let device = Device::of(RASPBERRY_PI);
    device.set("proc/self/cgroup", "12:cpu,cpuacct:/docker/0a1b\n4:memory:/docker/0a1b\n0::/\n");
    device.set("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912");
    device.set("sys/fs/cgroup/memory/memory.usage_in_bytes", "136870912");
    device.set(
        "sys/fs/cgroup/memory/memory.stat",
        "inactive_file 1\ntotal_inactive_file 100000000\n",
    );
    assert_eq!(device.read().memory_bytes, Some(500_000_000));
    // No limit is a huge one there.
    device.set("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
    assert_eq!(device.read().memory_bytes, Some(7 << 30));
}

#[test]
fn no_content_of_any_file_makes_a_probe_fail_or_believe_the_unreasonable() {
    let garbage: [&[u8]; 14] = [
        b"",
        b"\n",
        b"-1",
        b"nan",
        b"inf",
        b"99999999999999999999999",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"1e308",
        b"\xff\xfe\x00\x80",
        b"some avg10=nan avg60=1e999",
        b"0-4294967295,0-4294967295",
        b"MemAvailable: 18446744073709551615 kB",
        FAILS.as_bytes(),
    ];
    let sane = |readings: &Readings| {
        readings.celsius.is_none_or(|c| (-50.0..=200.0).contains(&c))
            && readings.battery_percent.is_none_or(|p| (0.0..=100.0).contains(&p))
            && readings.watts.is_none_or(|w| (0.0..=10_000.0).contains(&w))
            && readings.joules.is_none_or(|j| j.is_finite() && j >= 0.0)
            && readings.load.is_none_or(|l| l.is_finite() && l >= 0.0)
            && readings.memory_stall_percent.is_none_or(|p| (0.0..=100.0).contains(&p))
    };
    for table in [ORIN_NANO, ORIN_AGX, LAPTOP, BARE_X86, RASPBERRY_PI] {
        // One file at a time, then all of them together.
        let (device, everything) = (Device::of(table), Device::of(table));
        for (path, real) in table.lines().filter_map(|line| line.split_once(" =")) {
            for content in garbage {
                device.set(path, content);
                let readings = device.read();
                assert!(sane(&readings), "{path} = {content:?}: {readings:?}");
            }
            device.set(path, real.trim().replace("\\n", "\n"));
            everything.set(path, vec![b'9'; 100_000]);
        }
        let readings = everything.read();
        let heard = Readings { charging: None, ..readings.clone() };
        assert_eq!(heard, Readings::default(), "what is too long says nothing");
    }
}

#[test]
fn an_empty_tree_gives_no_reading_but_power_and_disk() {
    let device = Device::of("");
    let readings = device.probes(|_| {}).read();
    assert!(readings.storage_bytes.is_some_and(|bytes| bytes > 0));
    let expected = Readings {
        charging: Some(true),
        storage_bytes: readings.storage_bytes,
        ..Readings::default()
    };
    assert_eq!(readings, expected);
    let mut lost = SystemProbes::new(config::Probes::default(), device.0.path().join("absent"));
    assert_eq!(lost.read().storage_bytes, None);
}

#[test]
fn a_pipe_where_a_file_should_be_is_not_waited_for() {
    let device = Device::of(RASPBERRY_PI);
    let pipe = device.0.path().join("proc/loadavg");
    fs::remove_file(&pipe).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    assert_eq!(device.read().load, None);
}

#[test]
fn what_was_found_is_told_with_its_place_and_what_is_missing_with_where_it_would_be() {
    let device = Device::of(LAPTOP);
    let found = device.probes(|_| {}).describe();
    let told = |name: &str| {
        let finding = found.iter().find(|finding| finding.name == name).unwrap();
        (finding.value.as_str(), finding.source.as_str())
    };
    assert_eq!(told("celsius").0, "63.0 C");
    assert!(told("celsius").1.ends_with("sys/class/hwmon/hwmon4/temp2_input"));
    assert_eq!(told("watts").0, "9.42 W");
    assert!(told("watts").1.ends_with("sys/class/power_supply/BAT0"));
    assert_eq!(told("sensor acpitz").0, "27.8 C");
    assert_eq!(told("battery BAT0").0, "Discharging");
    assert_eq!(told("supply AC").0, "0");
    assert_eq!(told("memory_stall_percent").0, "none");
    assert!(told("memory_stall_percent").1.ends_with("proc/pressure/memory"));
    assert!(!found.iter().any(|finding| finding.name.contains("hidpp")));
    let rails = Device::of(ORIN_AGX).probes(|_| {}).describe();
    let rails = rails.iter().filter(|finding| finding.name.starts_with("rail "));
    assert_eq!(rails.count(), 4);
}

/// `probes`, the status and `/metrics` have the same readings, from one table.
#[test]
fn every_reading_is_told_by_its_name_and_a_gauge_has_its_value() {
    let device = Device::of(LAPTOP);
    let readings = device.read();
    let shown = serde_json::to_value(&readings).unwrap();
    let mut fields: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let mut told: Vec<String> =
        device.probes(|_| {}).describe().into_iter().map(|one| one.name).collect();
    told.truncate(fields.len());
    told.sort();
    assert_eq!(told, fields);
    let gauges: Vec<_> = readings.gauges().into_iter().map(|one| (one.name, one.value)).collect();
    let wide = |value: Option<f32>| value.map(f64::from);
    let expected = [
        ("celsius", wide(readings.celsius)),
        ("battery_ratio", wide(readings.battery_percent).map(|percent| percent / 100.0)),
        ("watts", wide(readings.watts)),
        ("memory_bytes", readings.memory_bytes.map(|bytes| bytes as f64)),
        ("storage_bytes", readings.storage_bytes.map(|bytes| bytes as f64)),
    ];
    assert_eq!(gauges, expected);
}
