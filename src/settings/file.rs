//! What is wrong with a configuration file, in the words of its reader: line, key, and what was expected.

/// Rust's names of numbers, and what they stand for.
const NUMBERS: [(&str, &str); 6] = [
    ("usize", "a whole number from 0"),
    ("u64", "a whole number from 0"),
    ("u32", "a whole number from 0"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
];

/// Line of the file, from 1, and the problem there, which begins with the key where a value is wrong.
pub fn problem(text: &str, error: &toml::de::Error) -> (usize, String) {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.as_bytes().get(..start).unwrap_or_default();
    let number = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let mut said = error.message().lines().collect::<Vec<_>>().join(" ");
    for (name, words) in NUMBERS {
        said = said.replace(&format!("expected {name}"), &format!("expected {words}"));
    }
    // Whoever reads the problem says so of the whole file.
    let said = said.trim_end_matches("; nothing was started").to_owned();
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let key = line.split_once('=').map(|(key, _)| key.trim());
    match key.filter(|_| said.starts_with("invalid ")) {
        Some(key) => (number, format!("{key}: {said}")),
        None => (number, said),
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Overrides;

    #[test]
    fn a_wrong_value_is_told_by_its_key_and_without_names_of_types() {
        let said = |text| Overrides::from_toml(text).err().map(|error| error.to_string());
        for (text, expected) in [
            ("seed = 1\nrank = -3\n", "line 2: rank: invalid value: integer `-3`"),
            ("rank = \"a\"\n", "line 1: rank: invalid type: string \"a\", expected a whole number"),
            (
                "device = \"gpu\"\n",
                "auto, cpu, cuda, cuda:N or metal, got gpu; nothing was started",
            ),
            ("alpha = \"b\"\n", "line 1: alpha: invalid type: string \"b\", expected a number"),
        ] {
            let said = said(text).unwrap_or_default();
            assert!(said.contains(expected) && !said.contains("usize"), "{said}");
            assert_eq!(said.matches("nothing was started").count(), 1, "{said}");
        }
    }
}
