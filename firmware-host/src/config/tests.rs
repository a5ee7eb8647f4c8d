//! CONFIG.md names every key and no other, with the default that the program has.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use std::collections::BTreeMap;

const MANUAL: &str = include_str!("../../CONFIG.md");

/// The sections of the file, each with the heading under which the manual has it.
const SECTIONS: [(&str, &str); 9] = [
    ("", "At the top"),
    ("learn", "[learn]"),
    ("job", "[job]"),
    ("intake", "[intake]"),
    ("intake.serial", "[[intake.serial]]"),
    ("serve", "[serve]"),
    ("constraints", "[constraints]"),
    ("budget", "[budget]"),
    ("probes", "[probes]"),
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
    for (section, heading) in SECTIONS {
        let mut told = told(heading);
        let sections = |key: &String| section.is_empty() && defaults.contains_key(key);
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
