//! A stream under every combination of some settings, and how little history is enough.
//!
//! - In: settings and their values. Out: a matrix R for each combination and seed.
//! - Never here: settings that decide what is loaded or which text is met; a study has one base and one stream.

use super::super::args::{History, Studied, Sweep};
use super::super::stream::bar;
use super::page;
use super::record::{Choice, Swept};
use super::{Bench, Prepared, table};
use sapwood::settings::{Overrides, Reader, rows};
use serde_json::{Map, Value, json};

/// What may be varied: what a step does, not what it is done with.
const VARIED: [&str; 14] = [
    "retain",
    "gamma",
    "replay-blocks",
    "replay-batch-size",
    "rank",
    "alpha",
    "learning-rate",
    "lr-schedule",
    "warmup",
    "weight-decay",
    "max-grad-norm",
    "embedding-layers",
    "anchor-weight",
    "whitening",
];
/// The file of what a sweep recommends.
const RECOMMENDED: &str = "recommended.toml";
/// Most combinations of a study.
const COMBINATIONS_MAX: usize = 1_000;
/// The setting of how much is remembered, and that of how much of it a step takes.
const REMEMBERED: [&str; 2] = ["replay-blocks", "replay-batch-size"];

/// Runs the stream under every combination of what is varied.
pub(super) fn sweep(
    args: &Sweep,
    prepared: &Prepared<'_>,
    bench: &mut Bench<'_>,
) -> anyhow::Result<()> {
    let choices = combinations(&args.vary)?;
    run(&args.studied, &choices, args.seeds, prepared, bench)?;
    let (header, rows) = page::swept(&bench.record.found);
    prepared.console.line(&table::text(&header, &rows))?;
    let (header, rows) = page::recommended(&bench.record.found);
    prepared
        .console
        .line(&format!("\nleast at the end, by domain\n{}", table::text(&header, &rows)))?;
    recommend(&choices, &rows, prepared, bench)
}

/// Writes the combination with the least loss at the end as a configuration of `adapt`'s, and says so.
fn recommend(
    choices: &[Choice],
    by_domain: &[Vec<String>],
    prepared: &Prepared<'_>,
    bench: &Bench<'_>,
) -> anyhow::Result<()> {
    let Some(best) = page::least(&bench.record.found, choices) else { return Ok(()) };
    let (domains, iters) = (bench.names.len(), prepared.settings.iters);
    let mut text = format!(
        "# Least loss at the end of a stream of {domains} domains, {iters} steps each. What is said of a step, such \
         as retain,\n# is for jobs of about as many steps. By domain:\n"
    );
    for row in by_domain {
        // The name of a folder may hold what ends a line.
        text += &format!("# {}\n", row[..3].join(" ").replace(char::is_control, " "));
    }
    text += &toml::to_string(best)?;
    bench.record.write(RECOMMENDED, &text)?;
    let path = bench.record.at(RECOMMENDED);
    let (named, path) = (page::chosen(best), path.display());
    let told = format!("least of all: {named}, for `sapwood adapt -c {path}`");
    if prepared.console.json() {
        return Ok(prepared
            .console
            .result(&json!({ "event": "recommended", "choice": best }), "")?);
    }
    Ok(prepared.console.line(&told)?)
}

/// Runs the stream with ever larger reservoirs, and without one.
pub(super) fn history(
    args: &History,
    prepared: &Prepared<'_>,
    bench: &mut Bench<'_>,
) -> anyhow::Result<()> {
    let [blocks, share] = REMEMBERED;
    let one = |key: &str, value: u64| Choice::from([(key.to_owned(), value.into())]);
    let mut choices = vec![one(share, 0)];
    choices.extend(args.blocks.iter().map(|&count| one(blocks, count)));
    run(&args.studied, &choices, args.seeds, prepared, bench)?;
    let (header, rows) = page::history(&bench.record.found);
    prepared.console.line(&table::text(&header, &rows))?;
    Ok(())
}

/// Refuses what cannot be run, before anything is.
pub(super) fn check(args: &Sweep) -> anyhow::Result<()> {
    combinations(&args.vary).map(|_| ())
}

/// Every value of every setting with every value of the others.
fn combinations(vary: &[String]) -> anyhow::Result<Vec<Choice>> {
    let mut all = vec![Choice::new()];
    for one in vary {
        let (key, values) = one.split_once('=').unwrap_or((one, ""));
        anyhow::ensure!(
            VARIED.contains(&key),
            "--vary: expected SETTING=VALUE,VALUE of {}, got {one}; nothing was started",
            VARIED.join(", ")
        );
        anyhow::ensure!(
            all.iter().all(|choice| !choice.contains_key(key)),
            "--vary: {key} is named twice; nothing was started"
        );
        let row = rows().into_iter().find(|row| row.key == key);
        let read = |word: &str| match row.as_ref().map(|row| row.kind.read(word)) {
            Some(Ok(value)) => Ok(value),
            Some(Err(expected)) => {
                anyhow::bail!("--vary {key}: expected {expected}, got {word}; nothing was started")
            }
            None => anyhow::bail!("--vary {key}: there is no such setting; nothing was started"),
        };
        let values: Vec<Value> = values.split(',').map(read).collect::<anyhow::Result<_>>()?;
        let with = |choice: &Choice, value: &Value| {
            let mut choice = choice.clone();
            choice.insert(key.to_owned(), value.clone());
            choice
        };
        all = all
            .iter()
            .flat_map(|choice| values.iter().map(move |value| with(choice, value)))
            .collect();
        anyhow::ensure!(
            all.len() <= COMBINATIONS_MAX,
            "--vary: expected at most {COMBINATIONS_MAX} combinations, got more; nothing was started"
        );
    }
    Ok(all)
}

/// Runs what was not run before; what is found is kept run by run.
fn run(
    args: &Studied,
    choices: &[Choice],
    seeds: u64,
    prepared: &Prepared<'_>,
    bench: &mut Bench<'_>,
) -> anyhow::Result<()> {
    let wishes = super::super::wishes(&args.learn, Reader::Stream)?;
    let mut runs = Vec::new();
    for choice in choices {
        let said: Map<String, Value> = choice.clone().into_iter().collect();
        let said: Overrides = serde_json::from_value(said.into())?;
        // As if it had been a flag: what is chosen by the base follows it.
        let settings = super::super::settings(said.or(wishes.clone()))?;
        let needs = args.method.apply(&settings).own_texts() > 0;
        anyhow::ensure!(
            !needs || prepared.has_own_texts,
            "--vary: {} needs texts of the base's own, which the study has not: expected --anchor-weight or \
             --whitening above 0; nothing was started",
            page::chosen(choice)
        );
        for seed in (0..seeds).map(|step| prepared.settings.seed.saturating_add(step)) {
            runs.push((choice, sapwood::settings::Settings { seed, ..settings.clone() }));
        }
    }
    let found = &bench.record.found.swept;
    let is_left = |(choice, settings): &(&Choice, sapwood::settings::Settings)| {
        !found.iter().any(|one| one.choice == **choice && one.seed == settings.seed)
    };
    let (all, left): (usize, Vec<_>) = (runs.len(), runs.into_iter().filter(is_left).collect());
    let domains = bench.names.len() as u64;
    prepared.console.line(&format!(
        "learns the stream {} times, {} steps each; {} of {all} are there already",
        left.len(),
        prepared.settings.iters * domains,
        all - left.len()
    ))?;
    for (choice, settings) in left {
        let bar = bar(settings.iters * domains, prepared.console, args.method, settings.seed);
        let matrix = bench.stream.run(args.method, &settings, |domain, report| {
            bar.set_message(format!("{domain} loss {:.3}", report.step.losses.fresh));
            bar.inc(1);
        })?;
        bar.finish_and_clear();
        let one = Swept { choice: choice.clone(), seed: settings.seed, matrix };
        if prepared.console.json() {
            prepared.console.result(&json!({ "event": "swept", "run": one }), "")?;
        }
        bench.record.found.swept.push(one);
        bench.record.save()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combined(vary: &[&str]) -> Result<Vec<Choice>, String> {
        let vary: Vec<String> = vary.iter().map(|&one| one.to_owned()).collect();
        combinations(&vary).map_err(|error| error.to_string())
    }

    #[test]
    fn every_value_meets_every_other_once() -> Result<(), String> {
        let all = combined(&["retain=0.5,0.9", "rank=4,8,16"])?;
        assert_eq!(all.len(), 6);
        let expected = Choice::from([
            ("rank".to_owned(), Value::from(8)),
            ("retain".to_owned(), Value::from(0.9)),
        ]);
        assert_eq!(all.iter().filter(|choice| **choice == expected).count(), 1);
        Ok(())
    }

    #[test]
    fn what_cannot_be_varied_is_named() {
        let many: Vec<String> = (0..40).map(|n| format!("0.{n:02}")).collect();
        let many = many.join(",");
        let (retain, gamma) = (format!("retain={many}"), format!("gamma={many}"));
        for (vary, said) in [
            (&["model=a"][..], "expected SETTING=VALUE,VALUE of retain"),
            (&["retain"], "--vary retain: expected"),
            (&["retain=0.5,"], "--vary retain: expected"),
            (&["rank=x"], "--vary rank: expected a whole number"),
            (&["rank=4", "rank=8"], "rank is named twice"),
            (&[&retain, &gamma], "at most 1000 combinations"),
        ] {
            let refused = combined(vary).err().unwrap_or_default();
            assert!(refused.contains(said) && refused.contains("nothing was started"), "{refused}");
        }
    }

    #[test]
    fn what_may_be_varied_is_a_setting() {
        let rows = rows();
        for key in VARIED.iter().chain(&REMEMBERED) {
            assert!(rows.iter().any(|row| row.key == *key), "{key}");
        }
    }
}
