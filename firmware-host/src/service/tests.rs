//! What service files say, for configurations of several kinds.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::config::Serial;
use std::process::Command;

fn options() -> Options {
    Options {
        program: "/usr/local/bin/firmware-host".into(),
        arguments: ["run", "--config", "/etc/sapwood/config.toml"].map(String::from).to_vec(),
        config: Some("/etc/sapwood/config.toml".into()),
        user: false,
        account: None,
        memory_high: "60%".into(),
        memory_max: "75%".into(),
        watchdog_seconds: 300,
    }
}

fn config() -> Config {
    Config {
        model: Some("/opt/sapwood/base".into()),
        state: Some("/var/lib/sapwood".into()),
        ..Config::default()
    }
}

fn unit(config: &Config, options: Options) -> String {
    Service::new(config, options).unwrap().file(Manager::Systemd).unwrap()
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| other == line)
}

#[track_caller]
fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(has(text, line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn a_unit_is_watched_fenced_and_last_in_line() {
    let unit = unit(&config(), options());
    assert_lines(
        &unit,
        &[
            "Type=notify",
            "ExecStart=\"/usr/local/bin/firmware-host\" \"run\" \"--config\" \"/etc/sapwood/config.toml\"",
            "WatchdogSec=300",
            "Restart=on-failure",
            "DynamicUser=yes",
            "StateDirectory=sapwood",
            "ConfigurationDirectory=sapwood",
            "MemoryHigh=60%",
            "CPUWeight=20",
            "ProtectHome=yes",
            "PrivateDevices=yes",
            "IPAddressDeny=any",
            "WantedBy=multi-user.target",
        ],
    );
    assert!(!unit.contains("ReadWritePaths") && !unit.contains("DeviceAllow"), "{unit}");
}

#[test]
fn a_unit_opens_what_its_configuration_names_and_no_more() {
    let mut config = config();
    config.intake.watch = Some("/srv/drop".into());
    let line = |path: &str| Serial { path: path.into(), baud: None };
    config.intake.serial = vec![line("/dev/ttyUSB0"), line("/dev/ttyTHS1"), line("/srv/pipe")];
    config.serve.listen = ([0, 0, 0, 0], 8321).into();
    config.serve.socket = Some("/run/sapwood/socket".into());
    config.serve.token_file = Some("/etc/sapwood/100%/token".into());
    let unit = unit(&config, options());
    assert_lines(
        &unit,
        &[
            "ReadWritePaths=\"/srv/drop\"",
            "RuntimeDirectory=sapwood",
            "DevicePolicy=closed",
            "DeviceAllow=char-ttyUSB rw",
            "DeviceAllow=\"/dev/ttyTHS1\" rw",
            "SupplementaryGroups=dialout",
            "LoadCredential=token:/etc/sapwood/100%%/token",
        ],
    );
    assert!(unit.contains(" --token-file ${CREDENTIALS_DIRECTORY}/token\n"), "{unit}");
    for shut in ["IPAddressDeny", "PrivateDevices", "/srv/pipe\" rw", "\"/run/sapwood\""] {
        assert!(!unit.contains(shut), "{shut} in\n{unit}");
    }
}

#[test]
fn a_device_of_a_fleet_reaches_others_and_has_the_fleet_s_folder() {
    let mut config = config();
    config.fleet.ca_file = Some("/etc/ssl/certs/ca-certificates.crt".into());
    let off = unit(&config, options());
    assert!(has(&off, "IPAddressDeny=any") && !off.contains("fleet"), "{off}");
    config.fleet.enabled = true;
    let on = unit(&config, options());
    assert_lines(&on, &["StateDirectory=sapwood", "StateDirectory=sapwood-fleet"]);
    assert!(!on.contains("IPAddressDeny"), "{on}");
    config.fleet.folder = Some("/srv/fleet".into());
    let account = Options { account: Some("ann".into()), ..options() };
    assert_lines(&unit(&config, account), &["ReadWritePaths=\"/srv/fleet\""]);
}

#[test]
fn what_lies_in_a_home_is_shown_alone() {
    let home = ["", "home", "ann"].join("/");
    let mut config = config();
    config.model = Some(format!("{home}/base").into());
    config.state = Some(format!("{home}/state").into());
    let refused = Service::new(&config, options()).unwrap().file(Manager::Systemd).unwrap_err();
    assert!(refused.to_string().contains("--account"), "{refused}");
    let unit = unit(&config, Options { account: Some("ann".into()), ..options() });
    assert_lines(&unit, &["User=ann", "ProtectHome=tmpfs"]);
    assert_lines(&unit, &[&format!("BindReadOnlyPaths=\"{home}/base\"")]);
    assert_lines(&unit, &[&format!("BindPaths=\"{home}/state\"")]);
    assert!(!unit.contains("StateDirectory") && !unit.contains("ReadWritePaths"), "{unit}");
}

#[test]
fn paths_are_plain_and_none_lies_where_the_service_sees_nothing() {
    let mut config = config();
    config.model = Some("/opt/sapwood/models/../base".into());
    let unit = unit(&config, options());
    assert!(unit.contains("\"/opt/sapwood/base\"") && !unit.contains(".."), "{unit}");
    let written = |config: &Config| Service::new(config, options())?.file(Manager::Systemd);
    for socket in ["/run/sapwood.socket", "/tmp/socket"] {
        let mut bare = config.clone();
        bare.serve.socket = Some(socket.into());
        let error = written(&bare).unwrap_err();
        assert!(error.to_string().contains("a folder of its own there") && error.is_choice());
    }
    let mut mapped = config;
    mapped.serve.listen = "[::ffff:127.0.0.1]:8321".parse().unwrap();
    assert!(written(&mapped).unwrap().contains("IPAddressDeny=any"), "it is this machine's own");
}

#[test]
fn what_lies_below_tmp_is_shown_alone() {
    let mut config = config();
    config.model = Some("/tmp/base".into());
    config.intake.watch = Some("/var/tmp/drop/./in//".into());
    let unit = unit(&config, options());
    assert_lines(&unit, &["PrivateTmp=yes", "BindReadOnlyPaths=\"/tmp/base\"", "ProtectHome=yes"]);
    assert_lines(&unit, &["BindPaths=\"/var/tmp/drop/in\""]);
    assert!(!unit.contains("ReadWritePaths"), "{unit}");
}

/// A folder behind a link is hidden where it is, not where its name is.
#[test]
fn what_a_link_leads_to_is_shown_too() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    let inside = tempfile::tempdir_in("/tmp").unwrap();
    let mut config = config();
    config.intake.watch = Some(link.join(inside.path().file_name().unwrap()));
    let unit = unit(&config, options());
    assert_lines(&unit, &[&format!("BindPaths=\"{}\"", inside.path().display())]);
}

#[test]
fn a_low_port_is_given_to_a_service_of_the_machine_and_to_no_users() {
    let mut config = config();
    config.serve.listen = ([127, 0, 0, 1], 80).into();
    let unit = unit(&config, options());
    assert_lines(&unit, &["CapabilityBoundingSet=CAP_NET_BIND_SERVICE"]);
    assert_lines(&unit, &["AmbientCapabilities=CAP_NET_BIND_SERVICE", "PrivateDevices=yes"]);
    assert!(!unit.contains("PrivateUsers"), "{unit}");
    let user = Service::new(&config, Options { user: true, ..options() }).unwrap();
    let error = user.file(Manager::Systemd).unwrap_err();
    assert!(error.is_choice() && error.to_string().contains("1024 or more"), "{error}");
}

#[test]
fn a_user_unit_keeps_what_needs_no_namespace() {
    let unit = unit(&config(), Options { user: true, ..options() });
    assert_lines(
        &unit,
        &["NoNewPrivileges=yes", "UMask=0077", "MemoryMax=75%", "WantedBy=default.target"],
    );
    for other in ["DynamicUser", "ProtectSystem", "CapabilityBoundingSet", "StateDirectory"] {
        assert!(!unit.contains(other), "{other} in\n{unit}");
    }
}

#[test]
fn words_mean_themselves() {
    let words = ["run", "--state", "/a b/$HOME/50%/\"q\"\\n"].map(String::from).to_vec();
    let unit = unit(&config(), Options { arguments: words, ..options() });
    let command = "ExecStart=\"/usr/local/bin/firmware-host\" \"run\" \"--state\" \
                   \"/a b/$$HOME/50%%/\\\"q\\\"\\\\n\"";
    assert_lines(&unit, &[command]);
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let state = |path: &str| Config { state: Some(path.into()), ..config() };
    let broken = "/var/lib/sap\nExecStart=x";
    assert!(matches!(Service::new(&state(broken), options()), Err(ServiceError::Path { .. })));
    let account = || Options { account: Some("ann".into()), ..options() };
    for path in ["/srv/a\"b", "/srv/a\\b", "/srv/a'b"] {
        let service = Service::new(&state(path), account()).unwrap();
        assert!(service.file(Manager::Systemd).is_err(), "{path}");
    }
    for size in ["", "%", "101%", "0", "1.5G", "5X", "5G\nUser=root", "-1", "1MM"] {
        let options = Options { memory_max: size.into(), ..options() };
        assert!(Service::new(&config(), options).is_err(), "{size:?}");
    }
    for size in ["1500M", "75%", "infinity", "4096", "2T"] {
        let options = Options { memory_max: size.into(), ..options() };
        assert!(Service::new(&config(), options).is_ok(), "{size:?}");
    }
    let options = Options { account: Some("a\nb".into()), ..options() };
    assert!(Service::new(&config(), options).is_err());
    let empty = Config { model: None, ..config() };
    assert!(matches!(Service::new(&empty, account()), Err(ServiceError::Missing("model"))));
}

/// Goal: the property list is one, and holds strings exactly. Oracle: Python's `plistlib`.
#[test]
fn a_property_list_is_read_by_another_program() {
    let words = ["run", "--state", "/a & b/<c>/\"d\"'"].map(String::from).to_vec();
    let options =
        Options { arguments: words.clone(), account: Some("_sapwood".into()), ..options() };
    let text = Service::new(&config(), options).unwrap().file(Manager::Launchd).unwrap();
    assert!(text.contains("<string>/a &amp; b/&lt;c&gt;/\"d\"'</string>"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.plist");
    std::fs::write(&file, install::signed(Manager::Launchd, &text)).unwrap();
    let script = "import json, plistlib, sys; \
                  print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let Ok(read) = Command::new("python3").args(["-c", script]).arg(&file).output() else {
        // A machine without Python has the text compared above.
        return;
    };
    let keys: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    let program: Vec<String> = serde_json::from_value(keys["ProgramArguments"].clone()).unwrap();
    assert_eq!(program[0], "/usr/local/bin/firmware-host");
    assert_eq!(program[1..], words);
    assert_eq!(keys["KeepAlive"]["SuccessfulExit"], false);
    assert_eq!((&keys["ExitTimeOut"], &keys["Umask"]), (&180.into(), &63.into()));
    assert_eq!(keys["UserName"], "_sapwood");
}

#[test]
fn a_launch_daemon_is_never_root_by_accident() {
    let service = Service::new(&config(), options()).unwrap();
    assert!(matches!(service.file(Manager::Launchd), Err(ServiceError::Missing("account"))));
}

/// Goal: systemd knows every line. Oracle: `systemd-analyze verify`, where it is installed; keys
/// newer than it are the only thing that it may say.
#[test]
fn systemd_accepts_the_units() {
    let mut open = config();
    open.intake.watch = Some("/srv/my drop".into());
    open.intake.serial = vec![Serial { path: "/dev/ttyUSB0".into(), baud: None }];
    open.serve.token_file = Some("/etc/sapwood/token".into());
    // Any program that is there: it is not started.
    let options = || Options { program: "/usr/bin/env".into(), ..options() };
    let account = || Options { account: Some("root".into()), ..options() };
    // The shipped configuration, from a clone below a home folder.
    let clone = ["", "home", "ann", "sapwood", "models", "samples"].join("/");
    let mut shipped = Config::from_toml(include_str!("../../../models/samples/host.toml")).unwrap();
    let below = |path: &Path| Path::new(&clone).join(path);
    shipped.model = shipped.model.as_deref().map(below);
    shipped.job.general = shipped.job.general.as_deref().map(below);
    shipped.state = Some(below(Path::new("../../state")));
    let mut outside = config();
    outside.serve.socket = Some("/run/sapwood/socket".into());
    outside.serve.listen = ([127, 0, 0, 1], 80).into();
    let mut elsewhere = config();
    elsewhere.serve.socket = Some("/srv/sockets/sapwood".into());
    elsewhere.intake.watch = Some("/tmp/drop".into());
    for text in [
        unit(&config(), options()),
        unit(&open, options()),
        unit(&open, account()),
        unit(&shipped, account()),
        unit(&outside, options()),
        unit(&elsewhere, options()),
        unit(&open, Options { user: true, ..options() }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(UNIT);
        std::fs::write(&file, install::signed(Manager::Systemd, &text)).unwrap();
        let read = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
        let Ok(read) = read else {
            eprintln!("skipped: no `systemd-analyze` here (Debian's package `systemd`)");
            return;
        };
        let said = String::from_utf8_lossy(&read.stderr);
        let about_us = said.lines().filter(|line| line.contains("sapwood"));
        let newer = ["RestartSteps", "RestartMaxDelaySec"];
        let wrong: Vec<_> =
            about_us.filter(|line| !newer.iter().any(|key| line.contains(key))).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
    }
}
