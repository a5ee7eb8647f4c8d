//! CONFIG.md names every key and no other, with the default that the program has.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use sapwood::settings::{Kind, rows};
use std::collections::BTreeMap;

const MANUAL: &str = include_str!("../../CONFIG.md");

/// The sections of the file, each with the heading under which the manual has it.
const SECTIONS: [(&str, &str); 10] = [
    ("", "At the top"),
    ("learn", "[learn]"),
    ("job", "[job]"),
    ("intake", "[intake]"),
    ("intake.serial", "[[intake.serial]]"),
    ("serve", "[serve]"),
    ("constraints", "[constraints]"),
    ("budget", "[budget]"),
    ("probes", "[probes]"),
    ("fleet", "[fleet]"),
];

/// Keys and defaults of the manual's table under a heading.
fn told(heading: &str) -> BTreeMap<String, String> {
    let part = MANUAL.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    let cell = |cell: Option<&str>| cell.unwrap().trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let (key, rest) = row.split_once('`').unwrap();
        (key.to_owned(), cell(rest.split('|').nth(1)))
    })
    .collect()
}

/// Every key of a section, those without a default too: the refusal of a wrong one lists them.
fn keys(section: &str) -> Vec<String> {
    let head = match section {
        "" => String::new(),
        "intake.serial" => "[[intake.serial]]\n".to_owned(),
        _ => format!("[{section}]\n"),
    };
    let refusal = Config::from_toml(&format!("{head}no-such-key = 1")).unwrap_err().to_string();
    let listed = refusal.split("expected").nth(1).unwrap();
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_manual_names_every_key_with_its_default_and_no_other_key() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    for (section, heading) in SECTIONS.into_iter().filter(|(section, _)| *section != "learn") {
        let mut told = told(heading);
        let is_section = |key: &String| defaults.contains_key(key) || key == "learn";
        let sections = |key: &String| section.is_empty() && is_section(key);
        for key in keys(section).into_iter().filter(|key| !sections(key)) {
            let default = defaults.get(section).and_then(|part| part.get(&key));
            let expected = match default {
                Some(value) => value.to_string(),
                None if (section, key.as_str()) == ("intake.serial", "path") => "required".into(),
                None => "none".to_owned(),
            };
            assert_eq!(told.remove(&key).as_ref(), Some(&expected), "[{section}] {key}");
        }
        assert!(told.is_empty(), "[{section}] has no {told:?}");
    }
}

/// The manual's rows of `[learn]`, as the table of settings has them.
fn learn_rows() -> Vec<String> {
    let rows = rows().into_iter().filter(|row| row.home.has(Reader::Device));
    rows.map(|row| {
        let start = row.start.map_or_else(|| "none".to_owned(), |start| format!("`{start}`"));
        let words = match row.kind {
            Kind::Choice(words) => words.iter().map(|(word, _)| format!("`{word}`")).collect(),
            _ => Vec::new(),
        };
        let may =
            if words.is_empty() { row.expected.unwrap_or_default() } else { words.join(", ") };
        format!("| `{}` | {start} | {may} | {} |", row.key, row.about)
    })
    .collect()
}

/// To bring the manual up to date, put in its place what this prints.
#[test]
fn the_manual_s_settings_of_learning_are_those_of_the_table() {
    let part = MANUAL.split("\n## [learn]\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: Vec<&str> = part.lines().filter(|line| line.starts_with("| `")).collect();
    let rows = learn_rows();
    assert!(told == rows, "expected of CONFIG.md:\n{}", rows.join("\n"));
}

/// What a value of a section is, as the manual's column says it: `LOW to HIGH`.
fn bounds(heading: &str) -> Vec<(String, [String; 2])> {
    let part = MANUAL.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    let bound = |row: &str| {
        let (key, rest) = row.split_once('`')?;
        let (low, high) = rest.split('|').nth(2)?.trim().split_once(" to ")?;
        Some((key.to_owned(), [low.to_owned(), high.to_owned()]))
    };
    rows.filter_map(bound).collect()
}

/// The next value beyond a bound; whole where the bound is.
fn beyond(bound: &str, upwards: bool) -> String {
    let sign = if upwards { 1.0 } else { -1.0 };
    match bound.parse::<i64>() {
        Ok(whole) => (whole + if upwards { 1 } else { -1 }).to_string(),
        Err(_) => {
            let bound: f64 = bound.parse().unwrap();
            format!("{:?}", bound + sign * (bound.abs() / 1e3).max(1e-3))
        }
    }
}

/// The manual is the oracle: every bound that it names is taken, and the next value is refused by name.
#[test]
fn every_key_takes_the_bounds_of_the_manual_and_nothing_beyond() {
    let mut tried = 0;
    for (section, heading) in SECTIONS.into_iter().filter(|(section, _)| *section != "learn") {
        let head = match section {
            "" => String::new(),
            "intake.serial" => "[[intake.serial]]\npath = \"x\"\n".to_owned(),
            _ => format!("[{section}]\n"),
        };
        for (key, [low, high]) in bounds(heading) {
            // Some know each other: these stand as far out of the way as they can.
            let (before, beside) = match key.as_str() {
                "hot-celsius" => ("", "cool-celsius = -50.0\n"),
                "cool-celsius" => ("", "hot-celsius = 150.0\n"),
                "samples-min" => {
                    ("[intake]\ninbox-samples-max = 1048576\n", "samples-max = 4294967295\n")
                }
                "samples-max" => ("", "samples-min = 1\n"),
                "iters-min" => ("", "iters-max = 4294967295\n"),
                "iters-max" => ("", "iters-min = 1\n"),
                "inbox-samples-max" => ("[job]\nsamples-min = 1\n", ""),
                _ => ("", ""),
            };
            let read = |value: &str| {
                Config::from_toml(&format!("{before}{head}{beside}{key} = {value}\n"))
            };
            let name = format!("{section}.{key}");
            for (bound, upwards) in [(&low, false), (&high, true)] {
                let is_met = key == "cool-celsius" && upwards;
                let taken = read(bound);
                assert!(taken.is_ok() || is_met, "{name} = {bound}: {}", taken.unwrap_err());
                let past = beyond(bound, upwards);
                let said = read(&past).unwrap_err().to_string();
                let negative = past.starts_with('-') && said.contains(&key);
                assert!(said.contains(&name) || negative, "{name} = {past}: {said}");
            }
            for wrong in ["nan", "inf", "\"x\"", "[]"] {
                let said = read(wrong).unwrap_err().to_string();
                assert!(said.contains(&key), "{name} = {wrong}: {said}");
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 33, "keys with bounds");
}

#[test]
fn a_setting_that_a_device_decides_itself_is_refused() {
    let mut refused = 0;
    for row in rows().into_iter().filter(|row| !row.home.has(Reader::Device)) {
        let value = match row.kind {
            Kind::Whole => "1",
            Kind::Switch => "true",
            _ => "\"x\"",
        };
        let error = Config::from_toml(&format!("[learn]\n{} = {value}", row.key)).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(row.key) && said.contains("has no effect"), "{said}");
        refused += 1;
    }
    assert_eq!(refused, 7);
}

#[test]
fn every_section_has_its_part_of_the_manual() {
    let named = |section: &String| SECTIONS.iter().any(|(known, _)| known == section);
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    assert!(defaults.len() > 5 && defaults.keys().all(named), "{defaults:?}");
}

#[test]
fn the_manual_s_example_is_a_configuration() {
    let example = MANUAL.split("```").nth(1).unwrap().strip_prefix("toml").unwrap();
    let config = Config::from_toml(example).unwrap();
    assert!(config.constraints.charging && config.budget.jobs_per_day == Some(3));
}

#[test]
fn a_configuration_is_written_as_it_was_read() {
    let text = "[constraints]\nwindows = [\"22:00-06:00\"]\n[budget]\njoules = 9.5";
    let config = Config::from_toml(text).unwrap();
    let again = Config::from_toml(&toml::to_string(&config).unwrap()).unwrap();
    // What is written out names every setting.
    assert_eq!(Config { wishes: config.wishes.clone(), ..again }, config);
}

#[test]
fn what_the_file_says_of_learning_is_known_apart_from_the_defaults() {
    let config = Config::from_toml("[learn]\nrank = 16\n").unwrap();
    let wishes = Overrides { rank: Some(16), ..Overrides::default() };
    assert_eq!((config.wishes, config.learn), (Some(wishes), Settings::default()));
}
