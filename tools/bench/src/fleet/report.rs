//! The tables of a fleet: mean over its devices, then mean and standard deviation over seeds.
//!
//! - In: a record. Out: Markdown.
//! - A figure beside another (a share, a per cent) is formed for each seed first.

use super::play::{Recall, Round, Scores};
use super::record::Record;
use super::rule::Rule;
use super::way::{NO_ATTACK, Way};
use std::fmt::Write;

/// A mean over seeds, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    /// Sample standard deviation; none of one seed.
    pub(crate) deviation: Option<f64>,
}

impl Spread {
    /// Of some numbers; none of none.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let square: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        let deviation = (numbers.len() > 1).then(|| (square / (count - 1.0)).sqrt());
        (!numbers.is_empty()).then_some(Self { mean, deviation })
    }

    fn text(spread: Option<Self>, digits: usize) -> String {
        match spread {
            None => "-".to_owned(),
            Some(Self { mean, deviation: None }) => format!("{mean:.digits$}"),
            Some(Self { mean, deviation: Some(by) }) => format!("{mean:.digits$} ± {by:.digits$}"),
        }
    }
}

/// The mean over devices.
pub(crate) fn mean(scores: &[Scores], of: impl Fn(&Scores) -> f64) -> f64 {
    scores.iter().map(of).sum::<f64>() / scores.len().max(1) as f64
}

fn mean_of(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

/// All tables.
pub(crate) fn tables(record: &Record) -> String {
    let last = record.setup.rounds;
    let mut text = String::new();
    let titles =
        [(1, "The first install".to_owned()), (last, format!("Round {last}, and its install"))];
    for (round, title) in titles.into_iter().take(last.min(2)) {
        installs(record, round, &title, &mut text);
    }
    recalls(record, &mut text);
    if record.ways().len() > record.rules().len() {
        attacks(record, &mut text);
    }
    text
}

/// What attacks do to the honest devices, after the last install, beside the mean without hostile devices.
fn attacks(record: &Record, text: &mut String) {
    let last = record.setup.rounds;
    let hostile = record.setup.hostile;
    let honest = record.setup.devices - hostile;
    let mut push = |line: &str| text.extend([line, "\n"]);
    push(&format!(
        "\n{honest} honest devices beside {hostile} hostile ones, after install {last}, bits per byte:\n"
    ));
    push(
        "| on install | merge | attack | own | change | others | change | general | change | merged alone, \
         all domains | change | eta | installs declined |",
    );
    push("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for title in record.ways() {
        let (rule, merge, attack) = Way::parts(&title);
        if rule == Rule::Local.title() {
            continue;
        }
        let pair = |figure: &dyn Fn(&Round) -> f64| {
            let [is, was] = [title.as_str(), rule].map(|way| record.figures(way, last, figure));
            let change = beside(&is, &was, |is, was| 100.0 * (is / was - 1.0));
            format!("{} | {} %", plain(&is, 3), plain(&change, 2))
        };
        let of = |of: fn(&Scores) -> f64| pair(&|it: &Round| mean(&it.after, of));
        let declined = |it: &Round| it.ridges.iter().filter(|ridge| ridge.is_none()).count() as f64;
        let row = [
            rule.to_owned(),
            merge.to_owned(),
            if attack == NO_ATTACK { "-".to_owned() } else { attack.to_owned() },
            of(|it| it.own),
            of(|it| it.others),
            of(|it| it.general),
            pair(&|it: &Round| it.alone.map_or(f64::NAN, |alone| alone[0])),
            plain(&record.figures(&title, last, |it| it.eta.unwrap_or(0.0)), 1),
            plain(&record.figures(&title, last, declined), 0),
        ];
        push(&format!("| {} |", row.join(" | ")));
    }
}

/// The install of a round.
fn installs(record: &Record, round: usize, title: &str, text: &mut String) {
    let mut push = |line: &str| text.extend([line, "\n"]);
    push(&format!("\n{title}, bits per byte:\n"));
    push(
        "| on install | own, before | beside no fleet | own, after | others, before | after | of what \
         replacing gains | general, before | after | first steps, loss | own after them |",
    );
    push("|---|---|---|---|---|---|---|---|---|---|---|");
    let local = Rule::Local.title();
    let of = |rule: &str, figure: &dyn Fn(&Round) -> f64| record.figures(rule, round, figure);
    let shown = |figures: Vec<(u64, f64)>| plain(&figures, 3);
    for rule in record.rules() {
        let own = |it: &Round| mean(&it.before, |it| it.own);
        let beside = beside(&of(&rule, &own), &of(&local, &own), |a, b| 100.0 * (a / b - 1.0));
        let row = [
            shown(of(&rule, &own)),
            format!("{} %", plain(&beside, 2)),
            shown(of(&rule, &|it| mean(&it.after, |it| it.own))),
            shown(of(&rule, &|it| mean(&it.before, |it| it.others))),
            shown(of(&rule, &|it| mean(&it.after, |it| it.others))),
            format!("{} %", plain(&share(record, &rule, round), 0)),
            shown(of(&rule, &|it| mean(&it.before, |it| it.general))),
            shown(of(&rule, &|it| mean(&it.after, |it| it.general))),
            shown(of(&rule, &|it| mean_of(&it.first_loss))),
            shown(of(&rule, &|it| mean_of(&it.first_own))),
        ];
        push(&format!("| {rule} | {} |", row.join(" | ")));
    }
}

fn plain(figures: &[(u64, f64)], digits: usize) -> String {
    let numbers: Vec<f64> = figures.iter().map(|figure| figure.1).collect();
    Spread::text(Spread::of(&numbers), digits)
}

/// Figures of the seeds that both have.
fn beside(one: &[(u64, f64)], two: &[(u64, f64)], of: impl Fn(f64, f64) -> f64) -> Vec<(u64, f64)> {
    let pair = |&(seed, a): &(u64, f64)| {
        two.iter().find(|other| other.0 == seed).map(|&(_, b)| (seed, of(a, b)))
    };
    one.iter().filter_map(pair).collect()
}

/// What the others' text gains over no fleet, in per cent of what it gains where L is replaced.
pub(crate) fn share(record: &Record, rule: &str, round: usize) -> Vec<(u64, f64)> {
    let others = |rule: &str| record.figures(rule, round, |it| mean(&it.after, |it| it.others));
    let none = others(&Rule::Local.title());
    let gain = |rule: &str| beside(&others(rule), &none, |a, b| b - a);
    beside(&gain(rule), &gain(&Rule::Replace.title()), |a, b| 100.0 * a / b)
}

/// What merges keep of what was learned alone.
fn recalls(record: &Record, text: &mut String) {
    let mut push = |line: &str| text.extend([line, "\n"]);
    push("\nWhat the first merge alone keeps of what each device had gained on its own domain:\n");
    push("| mean of | eta | kept | general | bare base | energy left out |");
    push("|---|---|---|---|---|---|");
    let mut ways: Vec<(&str, f64)> = Vec::new();
    for recall in &record.recalls {
        if !ways.contains(&(&recall.of, recall.eta)) {
            ways.push((&recall.of, recall.eta));
        }
    }
    for (of, eta) in ways {
        let own = || record.recalls.iter().filter(|it| it.of == of && it.eta == eta);
        let shown = |figure: &dyn Fn(&Recall) -> f64, digits| {
            Spread::text(Spread::of(&own().map(figure).collect::<Vec<_>>()), digits)
        };
        let kept = shown(&|it| 100.0 * mean_of(&it.merged) / mean_of(&it.alone), 1);
        let [general, bare] = [0, 1].map(|at| shown(&|it| it.general[at], 3));
        let dropped = shown(&|it| 100.0 * it.dropped, 1);
        let mut row = String::new();
        // Writing to a string cannot fail.
        let _ = write!(row, "| {of} | {eta} | {kept} % | {general} | {bare} | {dropped} % |");
        push(&row);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_spread_is_that_of_a_sample() {
        let spread = Spread::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        // Squares 4, 1, 0, 9 over 3.
        assert_eq!(spread.mean, 3.0);
        assert!((spread.deviation.unwrap() - (14.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::text(Spread::of(&[2.0]), 1), "2.0");
        assert_eq!(Spread::text(Spread::of(&[]), 1), "-");
    }

    #[test]
    fn seeds_are_compared_with_themselves() {
        let (one, two) = ([(0, 3.0), (1, 5.0), (2, 1.0)], [(1, 4.0), (0, 2.0)]);
        assert_eq!(beside(&one, &two, |a, b| a - b), [(0, 1.0), (1, 1.0)]);
    }
}
