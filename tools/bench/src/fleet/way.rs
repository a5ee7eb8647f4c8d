//! One way for a fleet to go: how devices install, how the server weighs, what hostile devices send.
//!
//! - In: lists from the command line. Out: all ways that they make together, each with a title of its own.
//! - Invariant: without hostile devices and with the mean a title is that of the rule alone.

use super::rule::Rule;
use fleet_server::aggregate::Rule as Weighing;
use fleet_server::aggregate::attacks::Attack;

/// What stands between the parts of a title.
const BETWEEN: &str = "; ";
/// What no attack is called on the command line and in titles.
pub(crate) const NO_ATTACK: &str = "none";

/// A rule of installs, a rule of merges, and an attack.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) rule: Rule,
    pub(crate) weighing: Weighing,
    /// None: the hostile devices are not there.
    pub(crate) attack: Option<Attack>,
}

impl Way {
    /// All ways of some rules, merges and attacks. Without a fleet nobody merges and nobody is attacked.
    pub(crate) fn all(
        rules: &[Rule],
        merges: &[Weighing],
        attacks: &[Option<Attack>],
    ) -> Vec<Self> {
        let mut ways = Vec::new();
        for rule in rules {
            let alone = *rule == Rule::Local;
            let merges = if alone { &[Weighing::Mean][..] } else { merges };
            let attacks = if alone { &[None][..] } else { attacks };
            for &weighing in merges {
                let way = |&attack| Self { rule: rule.clone(), weighing, attack };
                ways.extend(attacks.iter().map(way));
            }
        }
        ways
    }

    /// Its name in tables.
    pub(crate) fn title(&self) -> String {
        let mut title = self.rule.title();
        if self.weighing == Weighing::Mean && self.attack.is_none() {
            return title;
        }
        let attack = self.attack.map_or(NO_ATTACK, Attack::name);
        title.extend([BETWEEN, self.weighing.name(), BETWEEN, attack]);
        title
    }

    /// Title of the rule, name of the merge, name of the attack.
    pub(crate) fn parts(title: &str) -> (&str, &str, &str) {
        let mut parts = title.split(BETWEEN);
        let rule = parts.next().unwrap_or_default();
        (rule, parts.next().unwrap_or(Weighing::Mean.name()), parts.next().unwrap_or(NO_ATTACK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_says_all_parts_and_the_plain_one_that_of_the_rule() {
        let attacks = [None, Some(Attack::Flip)];
        let merges = [Weighing::Mean, Weighing::Robust];
        let ways = Way::all(&[Rule::Local, Rule::Factors], &merges, &attacks);
        let titles: Vec<String> = ways.iter().map(Way::title).collect();
        let factors = Rule::Factors.title();
        let expected = ["mean; flip", "robust; none", "robust; flip"];
        let expected = expected.map(|rest| format!("{factors}; {rest}"));
        assert_eq!(titles[..2], [Rule::Local.title(), factors.clone()]);
        assert_eq!(titles[2..], expected);
        assert_eq!(Way::parts(&titles[4]), (factors.as_str(), "robust", "flip"));
        assert_eq!(Way::parts(&titles[0]), ("no fleet", "mean", "none"));
    }
}
