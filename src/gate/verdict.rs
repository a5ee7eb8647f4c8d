//! Keep or drop: whether a new slow adapter may take the place of the one in use.
//!
//! The new domain must not get worse than its setting says, and neither may old text nor general text.
//! All comparisons are relative: a loss of 0.02 is two percent of the score before.

use super::Direction;
use crate::settings::Settings;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// A score of the adapter in use, and of the one on trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The adapter in use, or the bare base.
    #[serde(deserialize_with = "number")]
    pub before: f64,
    /// The slow adapter that would be committed.
    #[serde(deserialize_with = "number")]
    pub after: f64,
}

/// The old domain that lost most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// Its name.
    pub domain: String,
    /// Its scores.
    pub change: Change,
}

/// What the gate looks at; a kind of text that nobody has is not judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Held-out text of what was just learned; none where nothing was, as at an install.
    #[serde(default)]
    pub new: Option<Change>,
    /// Held-out text of what was learned before, the mean over its domains.
    pub old: Option<Change>,
    /// The one of those domains that lost most.
    #[serde(default)]
    pub worst: Option<Worst>,
    /// General text, which no job learns.
    pub general: Option<Change>,
    /// Which way all of them get better.
    pub direction: Direction,
}

/// How much may change, relative to the score before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    /// Least gain on new text; 0: not worse.
    pub new_gain_min: f64,
    /// Most loss on old text.
    pub old_loss_max: f64,
    /// Most loss on one old domain.
    #[serde(default = "unbounded")]
    pub worst_loss_max: f64,
    /// Most loss on general text.
    pub general_loss_max: f64,
}

/// Why an adapter is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A score is not a finite number above 0.
    NotANumber,
    /// Too little gain on new text.
    New,
    /// Too much loss on old text.
    Old,
    /// Too much loss on one old domain.
    Worst,
    /// Too much loss on general text.
    General,
}

/// What the gate says; `to_string` is one line for the user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The new adapter is committed.
    Keep {
        /// What it was judged by.
        scores: Scores,
    },
    /// The adapter in use stays.
    Drop {
        /// The first reason found.
        reason: Reason,
        /// What it was judged by.
        scores: Scores,
        /// The limits it met.
        judge: Judge,
    },
}

impl Judge {
    /// The limits that the user chose.
    pub fn of(settings: &Settings) -> Self {
        Self {
            new_gain_min: settings.gate_new,
            old_loss_max: settings.gate_old,
            worst_loss_max: settings.gate_worst,
            general_loss_max: settings.gate_general,
        }
    }

    /// That of the install of a global adapter, which may lose half of what a job may: it brings nothing
    /// that the device has learned, and comes again with every release.
    pub fn of_install(settings: &Settings) -> Self {
        let job = Self::of(settings);
        Self {
            old_loss_max: job.old_loss_max / 2.0,
            general_loss_max: job.general_loss_max / 2.0,
            ..job
        }
    }

    /// The verdict on an adapter. A score that is NaN, infinite or not above 0 drops it.
    pub fn judge(&self, scores: Scores) -> Verdict {
        let loss = |change: Option<Change>| change.map(|change| -scores.gain(change));
        let worst = scores.worst.as_ref().map(|worst| worst.change);
        // Too little gain is too much loss.
        let judged = [
            (Reason::New, loss(scores.new), -self.new_gain_min),
            (Reason::Old, loss(scores.old), self.old_loss_max),
            (Reason::Worst, loss(worst), self.worst_loss_max),
            (Reason::General, loss(scores.general), self.general_loss_max),
        ];
        let is_number = |(_, loss, _): &(_, Option<f64>, _)| loss.is_none_or(f64::is_finite);
        let is_over =
            |(_, loss, most): &(_, Option<f64>, f64)| loss.is_some_and(|loss| loss > *most);
        let reason = match judged.iter().all(is_number) {
            false => Some(Reason::NotANumber),
            true => judged.iter().find(|row| is_over(row)).map(|(reason, ..)| *reason),
        };
        match reason {
            None => Verdict::Keep { scores },
            Some(reason) => Verdict::Drop { reason, scores, judge: *self },
        }
    }
}

/// Verdicts from before single domains were judged met no limit on them.
fn unbounded() -> f64 {
    f64::MAX
}

/// JSON has no NaN and writes null, which must not make a recorded verdict unreadable.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Scores {
    /// Gain relative to the score before; NaN when that makes no sense.
    fn gain(&self, change: Change) -> f64 {
        let Change { before, after } = change;
        if !before.is_finite() || !after.is_finite() || before <= 0.0 || after < 0.0 {
            return f64::NAN;
        }
        self.direction.gain(before, after) / before
    }

    fn line(&self, change: Change) -> String {
        let Change { before, after } = change;
        let percent = 100.0 * (after - before) / before;
        format!("{before:.3} -> {after:.3} ({percent:+.1} %)")
    }
}

impl Verdict {
    /// Whether the new adapter is committed.
    pub fn keeps(&self) -> bool {
        matches!(self, Self::Keep { .. })
    }

    /// What it was judged by.
    pub fn scores(&self) -> &Scores {
        match self {
            Self::Keep { scores } | Self::Drop { scores, .. } => scores,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep { .. } => write!(to, "kept: ")?,
            Self::Drop { reason, judge, .. } => {
                let percent = |part: f64| 100.0 * part;
                match reason {
                    Reason::NotANumber => write!(to, "dropped, a score is not a number: ")?,
                    Reason::New => write!(
                        to,
                        "dropped, new text gained less than {:.1} %: ",
                        percent(judge.new_gain_min)
                    )?,
                    Reason::Old => write!(
                        to,
                        "dropped, old text lost more than {:.1} %: ",
                        percent(judge.old_loss_max)
                    )?,
                    Reason::Worst => write!(
                        to,
                        "dropped, an old domain lost more than {:.1} %: ",
                        percent(judge.worst_loss_max)
                    )?,
                    Reason::General => write!(
                        to,
                        "dropped, general text lost more than {:.1} %: ",
                        percent(judge.general_loss_max)
                    )?,
                }
            }
        }
        let scores = self.scores();
        let mut parts = Vec::new();
        if let Some(change) = scores.new {
            parts.push(format!("new {}", scores.line(change)));
        }
        if let Some(change) = scores.old {
            parts.push(format!("old {}", scores.line(change)));
        }
        // Of one domain alone that is said already.
        if let Some(Worst { domain, change }) =
            scores.worst.as_ref().filter(|worst| Some(worst.change) != scores.old)
        {
            parts.push(format!("of it worst {} ({domain})", scores.line(*change)));
        }
        if let Some(change) = scores.general {
            parts.push(format!("general {}", scores.line(change)));
        }
        to.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(new: f64, old: f64, general: f64) -> Scores {
        let from_two = |after| Change { before: 2.0, after };
        Scores {
            new: Some(from_two(new)),
            old: Some(from_two(old)),
            worst: None,
            general: Some(from_two(general)),
            direction: Direction::LowerIsBetter,
        }
    }

    fn reason(scores: Scores) -> Option<Reason> {
        reason_of(Judge::of(&Settings::default()), scores)
    }

    fn reason_of(judge: Judge, scores: Scores) -> Option<Reason> {
        match judge.judge(scores) {
            Verdict::Keep { .. } => None,
            Verdict::Drop { reason, .. } => Some(reason),
        }
    }

    #[test]
    fn an_install_may_lose_half_of_what_a_job_may() {
        let judge = Judge::of_install(&Settings::default());
        let nothing_new = |old, general| Scores { new: None, ..scores(0.0, old, general) };
        assert_eq!(reason_of(judge, nothing_new(2.019, 2.049)), None);
        assert_eq!(reason_of(judge, nothing_new(2.021, 2.0)), Some(Reason::Old));
        assert_eq!(reason_of(judge, nothing_new(2.0, 2.051)), Some(Reason::General));
    }

    #[test]
    fn an_adapter_is_kept_up_to_the_limits_and_dropped_beyond_each() {
        assert_eq!(reason(scores(1.5, 2.03, 2.09)), None);
        assert_eq!(reason(scores(2.0, 2.0, 2.0)), None);
        assert_eq!(reason(scores(2.01, 1.0, 1.0)), Some(Reason::New));
        assert_eq!(reason(scores(1.5, 2.05, 2.0)), Some(Reason::Old));
        assert_eq!(reason(scores(1.5, 2.0, 2.11)), Some(Reason::General));
        let first_job = Scores { old: None, general: None, ..scores(1.5, 9.0, 9.0) };
        assert_eq!(reason(first_job), None);
    }

    /// One of 32 domains that is ruined moves the mean by less than its own limit.
    #[test]
    fn one_domain_that_is_ruined_drops_an_adapter_that_is_fine_on_the_mean() {
        let with = |after| {
            let worst = Worst { domain: "law".into(), change: Change { before: 2.0, after } };
            Scores { worst: Some(worst), ..scores(1.5, 2.03, 2.0) }
        };
        assert_eq!(reason(with(2.19)), None);
        assert_eq!(reason(with(2.21)), Some(Reason::Worst));
        assert_eq!(reason(with(f64::NAN)), Some(Reason::NotANumber));
        let said = Judge::of(&Settings::default()).judge(with(2.6)).to_string();
        let worst = "of it worst 2.000 -> 2.600 (+30.0 %) (law)";
        assert!(
            said.contains("an old domain lost more than 10.0 %") && said.contains(worst),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_number_is_never_kept() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            for broken in [scores(bad, 2.0, 2.0), scores(1.0, bad, 2.0), scores(1.0, 2.0, bad)] {
                assert_eq!(reason(broken), Some(Reason::NotANumber), "{bad}");
            }
            let mut broken = scores(1.0, 2.0, 2.0);
            broken.new = broken.new.map(|change| Change { before: bad, ..change });
            assert_eq!(reason(broken), Some(Reason::NotANumber), "{bad}");
        }
    }

    #[test]
    fn accuracy_is_judged_the_other_way_round() {
        let accuracy = |new, old| {
            let Scores { general, .. } = scores(1.0, 1.0, 2.0);
            Scores { direction: Direction::HigherIsBetter, general, ..scores(new, old, 2.0) }
        };
        assert_eq!(reason(accuracy(2.5, 2.5)), None);
        assert_eq!(reason(accuracy(1.9, 2.5)), Some(Reason::New));
        assert_eq!(reason(accuracy(2.5, 1.9)), Some(Reason::Old));
    }

    #[test]
    fn a_verdict_is_one_line_and_survives_json() -> Result<(), serde_json::Error> {
        let judge = Judge::of(&Settings::default());
        let kept = judge.judge(scores(1.5, 2.01, 2.0));
        assert_eq!(
            kept.to_string(),
            "kept: new 2.000 -> 1.500 (-25.0 %), old 2.000 -> 2.010 (+0.5 %), \
             general 2.000 -> 2.000 (+0.0 %)"
        );
        let dropped = judge.judge(scores(1.5, 2.1, 2.0));
        assert!(
            dropped.to_string().starts_with("dropped, old text lost more than 2.0 %: new 2.000")
        );
        for verdict in [kept, dropped] {
            let json = serde_json::to_string(&verdict)?;
            assert_eq!(serde_json::from_str::<Verdict>(&json)?, verdict);
        }
        let json = serde_json::to_string(&judge.judge(scores(f64::NAN, 2.0, 2.0)))?;
        let broken: Verdict = serde_json::from_str(&json)?;
        assert!(matches!(broken, Verdict::Drop { reason: Reason::NotANumber, .. }));
        Ok(())
    }

    /// An install learns no new domain: what was there before may not get worse, and that is all.
    #[test]
    fn without_new_text_the_rest_decides() {
        let judge = Judge::of(&Settings::default());
        let install = |old, general| Scores { new: None, ..scores(0.0, old, general) };
        assert_eq!(
            judge.judge(install(2.03, 2.09)).to_string(),
            "kept: old 2.000 -> 2.030 (+1.5 %), general 2.000 -> 2.090 (+4.5 %)"
        );
        assert_eq!(reason(install(2.05, 2.0)), Some(Reason::Old));
        assert_eq!(reason(install(2.0, 2.11)), Some(Reason::General));
        assert_eq!(reason(install(f64::NAN, 2.0)), Some(Reason::NotANumber));
    }

    /// Numbers that binary holds exactly, so that a bound is met to the last bit.
    #[test]
    fn who_meets_a_bound_exactly_is_kept() {
        let judge = Judge {
            new_gain_min: 0.25,
            old_loss_max: 0.5,
            worst_loss_max: 0.75,
            general_loss_max: 0.125,
        };
        let keeps = |new, old, general| judge.judge(scores(new, old, general)).keeps();
        assert!(keeps(1.5, 3.0, 2.25));
        let more = 1.0 + f64::EPSILON;
        assert!(!keeps(1.5 * more, 3.0, 2.25), "new text gained less");
        assert!(!keeps(1.5, 3.0 * more, 2.25), "old text lost more");
        assert!(!keeps(1.5, 3.0, 2.25 * more), "general text lost more");
    }
}
