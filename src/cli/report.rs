//! The page of a job: its curves, scores and settings.
//!
//! - In: what a job tells while it runs. Out: the page, written when it has ended.
//! - Never here: anything that the job did not tell.

use super::html::{self, Html, number};
use super::picture::curves;
use sapwood::learner::{Event, Score, Text, Who};
use sapwood::settings::Settings;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What names the place of a page.
const FLAG: &str = "--report";
/// Most points of a curve; more are drawn as means of neighbours.
const POINTS_MAX: usize = 240;

/// A page that fills while its job runs.
pub(super) struct Page {
    path: PathBuf,
    plan: String,
    settings: Settings,
    steps: Vec<Step>,
    scorings: Vec<(u64, Vec<Score>)>,
    ready: Option<Event>,
    notes: Vec<String>,
    end: String,
}

/// The losses that are drawn.
#[derive(Clone, Copy)]
struct Step {
    at: f64,
    fresh: f64,
    replay: f64,
    embedding: f64,
    anchor: f64,
}

impl Page {
    /// A page to be written to `path`, of a job under these settings; `plan` says them in a line.
    ///
    /// # Errors
    /// What lies there is no page of ours, or nothing can lie there.
    pub(super) fn new(path: &Path, settings: &Settings, plan: String) -> anyhow::Result<Self> {
        html::check_place(FLAG, path)?;
        Ok(Self {
            path: path.to_owned(),
            plan,
            settings: settings.clone(),
            steps: Vec::new(),
            scorings: Vec::new(),
            ready: None,
            notes: Vec::new(),
            end: "The job did not come to its end.".to_owned(),
        })
    }

    /// Takes in what happened.
    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Ready { .. } => self.ready = Some(event.clone()),
            Event::Step { step, fresh, replay, embedding, anchor, .. } => {
                let number = |value: &Option<f32>| value.map_or(f64::NAN, f64::from);
                self.steps.push(Step {
                    at: *step as f64,
                    fresh: (*fresh).into(),
                    replay: number(replay),
                    embedding: number(embedding),
                    anchor: number(anchor),
                });
            }
            Event::Scores { step, scores } => self.scorings.push((*step, scores.clone())),
            Event::Warning { message } => self.notes.push(message.clone()),
            Event::Plateau { step, best } => self.notes.push(format!(
                "New text gained no more at step {step}, its best was at step {best}: the job ended early."
            )),
            Event::Best { step } => self
                .notes
                .push(format!("The slow learner of step {step} was the best: it was judged.")),
            Event::Stopped { step } => self.end = format!("The job stopped at step {step}."),
            Event::Verdict { reason, generation, .. } => {
                let number = generation.map_or("none".to_owned(), |number| number.to_string());
                self.end = format!("{reason}; generation in use: {number}");
            }
            _ => {}
        }
    }

    /// Writes the page; it takes its place whole.
    ///
    /// # Errors
    /// It cannot be written, or what came to lie there meanwhile is not ours.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        html::write(FLAG, &self.path, &self.html())
    }

    fn html(&self) -> String {
        let title = match &self.ready {
            Some(Event::Ready { domain, .. }) => domain.as_str(),
            _ => "A job",
        };
        let mut page = Html::new(title);
        page.paragraph(&self.end);
        self.add_scores(&mut page);
        self.add_curves(&mut page);
        page.heading("The job");
        page.paragraph(&self.plan);
        if let Some(facts) = self.ready.as_ref().and_then(facts) {
            page.paragraph(&facts);
        }
        self.notes.iter().for_each(|note| page.paragraph(note));
        self.add_settings(&mut page);
        page.finish()
    }

    /// What the last scoring, which holds every learner, says of each text.
    fn add_scores(&self, page: &mut Html) {
        let Some((_, scores)) = self.scorings.last() else { return };
        let mut texts: Vec<(Text, Option<&str>)> =
            scores.iter().map(|score| (score.text, score.domain.as_deref())).collect();
        texts.sort_unstable();
        texts.dedup();
        let row = |(text, domain): (Text, Option<&str>)| {
            let of = |who| score(scores, text, domain, who);
            let name = match domain {
                Some(domain) => format!("{}: {domain}", name(text)),
                None => name(text).to_owned(),
            };
            let change = 100.0 * (of(Who::Slow) / of(Who::Before) - 1.0);
            let change = match change.is_finite() {
                true => format!("{change:+.1} %"),
                false => number(change, 1),
            };
            let [before, fast, slow] =
                [Who::Before, Who::Fast, Who::Slow].map(|who| number(of(who), 4));
            (false, vec![name, before, fast, slow, change])
        };
        page.heading("Bits per byte on text that was held out");
        let header = ["text", "before", "fast", "slow", "slow to before"];
        page.table(1, &header, texts.into_iter().map(row));
    }

    fn add_curves(&self, page: &mut Html) {
        let steps = thin(&self.steps);
        let course = |of: fn(&Step) -> f64| -> Vec<[f64; 2]> {
            steps.iter().map(|step| [step.at, of(step)]).collect()
        };
        let losses = [
            ("fresh text", course(|step| step.fresh)),
            ("replayed text", course(|step| step.replay)),
        ];
        page.picture(&curves("Loss while it learned", "nats a label", "steps", &losses));
        let held = [
            ("fast to slow, squared", course(|step| step.embedding)),
            ("fast to base, nats", course(|step| step.anchor)),
        ];
        page.picture(&curves("What holds the fast learner", "distance", "steps", &held));
        let mut scored = Vec::new();
        for text in Text::ALL {
            for (who, learner) in [(Who::Fast, "fast"), (Who::Slow, "slow")] {
                let points = self.scorings.iter().map(|(step, scores)| {
                    // Both begin as what was there before.
                    let own = score(scores, text, None, who);
                    let began = score(scores, text, None, Who::Before);
                    [*step as f64, if own.is_finite() { own } else { began }]
                });
                scored.push((format!("{}, {learner}", name(text)), points.collect()));
            }
        }
        page.picture(&curves("Held-out text along the job", "bits per byte", "steps", &scored));
    }

    /// Every setting; those that are not as they start stand out.
    fn add_settings(&self, page: &mut Html) {
        let (Ok(Value::Object(now)), Ok(first)) =
            (serde_json::to_value(&self.settings), serde_json::to_value(Settings::default()))
        else {
            return;
        };
        page.heading("Settings");
        let rows = now.into_iter().map(|(key, value)| {
            let (is_chosen, first) = (value != first[&key], shown(&first[&key]));
            (is_chosen, vec![key, shown(&value), first])
        });
        page.table(3, &["setting", "value", "default"], rows);
    }
}

/// What was loaded, in a sentence or two.
fn facts(ready: &Event) -> Option<String> {
    let Event::Ready { parameters, trained, device, blocks, held_out, memory, step, .. } = ready
    else {
        return None;
    };
    let resumed = match step {
        0 => String::new(),
        step => format!(" It went on from step {step}; what was before is not shown."),
    };
    Some(format!(
        "{blocks} blocks to learn; held out: {} of the new text, {} of earlier domains, {} of general \
         text. {trained} of {parameters} parameters learned on {device}; memory needed: about {}.{resumed}",
        held_out[0],
        held_out[1],
        held_out[2],
        super::console::bytes(memory.total())
    ))
}

fn name(text: Text) -> &'static str {
    match text {
        Text::New => "new",
        Text::Old => "old",
        Text::General => "general",
    }
}

/// The bits per byte of a learner on a text; not a number where it was not scored.
fn score(scores: &[Score], text: Text, domain: Option<&str>, who: Who) -> f64 {
    let found = scores
        .iter()
        .find(|score| score.text == text && score.who == who && score.domain.as_deref() == domain);
    found.map_or(f64::NAN, |score| score.bits_per_byte)
}

/// A value as a configuration file has it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Neighbours become their mean where there are too many to be told apart.
fn thin(steps: &[Step]) -> Vec<Step> {
    let group = steps.len().div_ceil(POINTS_MAX).max(1);
    let mean = |steps: &[Step], of: fn(&Step) -> f64| {
        let there = steps.iter().map(of).filter(|value| value.is_finite());
        there.clone().sum::<f64>() / there.count() as f64
    };
    let merge = |steps: &[Step]| Step {
        at: mean(steps, |step| step.at),
        fresh: mean(steps, |step| step.fresh),
        replay: mean(steps, |step| step.replay),
        embedding: mean(steps, |step| step.embedding),
        anchor: mean(steps, |step| step.anchor),
    };
    steps.chunks(group).map(merge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page {
            path: PathBuf::new(),
            plan: "plan: top 4".to_owned(),
            settings: Settings { rank: 3, ..Settings::default() },
            steps: Vec::new(),
            scorings: Vec::new(),
            ready: None,
            notes: Vec::new(),
            end: String::new(),
        }
    }

    fn step(step: u64, fresh: f32, replay: Option<f32>) -> Event {
        Event::Step {
            step,
            iters: 1000,
            loss: fresh,
            fresh,
            replay,
            embedding: None,
            anchor: None,
            gradient_norm: 1.0,
            learning_rate: 1e-3,
            tokens: 8,
            held: 0,
        }
    }

    fn scored(who: Who, domain: Option<&str>, bits_per_byte: f64) -> Score {
        let text = if domain.is_some() { Text::Old } else { Text::New };
        Score { text, who, domain: domain.map(str::to_owned), bits_per_byte, perplexity: 1.0 }
    }

    #[test]
    fn curves_are_there_for_what_was_told_and_no_other() {
        let mut page = page();
        (1..=1000).for_each(|at| page.take(&step(at, 2.0, Some(f32::NAN))));
        let html = page.html();
        assert_eq!((html.matches("<svg").count(), html.matches("<polyline").count()), (1, 1));
        assert!(html.contains("fresh text") && !html.contains("replayed text"));
        let points = html.split("points=\"").nth(1).and_then(|rest| rest.split('"').next());
        let count = points.map_or(0, |points| points.split(' ').count());
        assert!((POINTS_MAX / 2..=POINTS_MAX).contains(&count), "{count}");
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn scores_stand_in_a_row_for_each_text_and_domain() {
        let mut page = page();
        let scores = vec![
            scored(Who::Before, None, 4.0),
            scored(Who::Before, Some("logs"), 2.0),
            scored(Who::Slow, None, 3.0),
            scored(Who::Slow, Some("logs"), f64::INFINITY),
        ];
        page.take(&Event::Scores { step: 9, scores });
        let html = page.html();
        let number = |text: &str| format!("<td class=\"number\">{text}</td>");
        let row = [number("4.0000"), number("–"), number("3.0000"), number("-25.0 %")].concat();
        assert!(html.contains(&format!("<tr><td>new</td>{row}</tr>")), "{html}");
        let row = [number("2.0000"), number("–"), number("–"), number("–")].concat();
        assert!(html.contains(&format!("<tr><td>old: logs</td>{row}</tr>")), "{html}");
    }

    #[test]
    fn a_setting_that_was_chosen_stands_out() {
        let html = page().html();
        let row = "<tr class=\"chosen\"><td>rank</td><td>3</td>";
        assert!(html.contains(row) && html.matches("class=\"chosen\"").count() == 1, "{html}");
    }
}
