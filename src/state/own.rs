//! Whether a folder is a state's, before anything is made in it: a mistyped name may lead to another's.
//!
//! - In: the names in the folder. Out: one that no state has, or none.

use super::written::OWN_TEXTS;

/// What may lie in a state folder before its first manifest; a new file system brings the last one.
const PARTS: [&str; 8] =
    ["adapters", "learner", "checkpoint", "reservoir", OWN_TEXTS, "lock", "inbox", BROUGHT];
const BROUGHT: &str = "lost+found";

/// Whether a state writes what has this name in its folder, a part that is set aside or on its way included.
pub fn is_part(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    stem == "manifest" || PARTS.contains(&stem) && name != BROUGHT
}

/// A name that makes a folder another's: none where there is a manifest, and hidden names make none.
///
/// - `beside`: names that whoever asks keeps beside the state.
pub fn foreign<'n>(names: &'n [String], beside: &[&str]) -> Option<&'n str> {
    if names.iter().any(|name| name.starts_with("manifest.")) {
        return None;
    }
    let is_own = |name: &&String| {
        let plain = name.trim_end_matches(".new");
        name.starts_with('.') || PARTS.contains(&plain) || beside.contains(&plain)
    };
    names.iter().find(|name| !is_own(name)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::{foreign, is_part};

    #[test]
    fn a_folder_is_a_state_s_by_its_manifest_or_by_holding_nothing_else() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(foreign(&[], &[]), None);
        assert_eq!(foreign(&names(&["lock", "inbox", "reservoir.new", ".trash"]), &[]), None);
        assert_eq!(foreign(&names(&["lock", "thesis.tex"]), &[]), Some("thesis.tex"));
        assert_eq!(foreign(&names(&["manifest.b", "thesis.tex"]), &[]), None);
        assert_eq!(foreign(&names(&["paused"]), &["paused"]), None);
        assert_eq!(foreign(&names(&["paused"]), &[]), Some("paused"));
    }

    #[test]
    fn a_part_is_known_by_its_name() {
        for name in ["manifest.a", "manifest.b.new", "lock", "inbox", "reservoir.new", "own-texts"]
        {
            assert!(is_part(name), "{name}");
        }
        for name in ["lost+found", "token", "", ".lock", "locks", "paused"] {
            assert!(!is_part(name), "{name}");
        }
    }
}
