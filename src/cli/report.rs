//! The page of a job: its curves, scores and settings, as one file of HTML that needs nothing beside it.
//!
//! - In: what a job tells while it runs. Out: the page, written when it has ended.
//! - Invariant: only a page that was made here is replaced.

use super::picture::{AREA, Escaped, HEIGHTS, Svg, style};
use anyhow::Context;
use sapwood::learner::{Event, Score, Text, Who};
use sapwood::settings::Settings;
use sapwood_plot::Axis;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How every page begins: it tells ours from others.
const OPENING: &str = "<!doctype html>\n<meta name=\"generator\" content=\"Sapwood\">\n";
/// The rest of the head. Nothing is loaded, whatever a name or a message holds.
const HEAD: &str = "<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
    <style>\n\
    :root { color-scheme: light dark; font: 16px/1.5 sans-serif }\n\
    body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }\n\
    svg { max-width: 100%; height: auto }\n\
    div { overflow-x: auto }\n\
    table { border-collapse: collapse; font-variant-numeric: tabular-nums }\n\
    th, td { padding: .15rem .8rem .15rem 0; text-align: left; font-weight: normal }\n\
    td.number, th.number { text-align: right }\n\
    td { white-space: nowrap }\n\
    tr.chosen { font-weight: bold }\n\
    tr.chosen td { font-weight: bold }\n\
    </style>\n";
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
        check_place(path)?;
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
        check_place(&self.path)?;
        let fresh = fresh(&self.path);
        fs::write(&fresh, self.html())
            .and_then(|()| fs::rename(&fresh, &self.path))
            .with_context(|| format!("--report: cannot write {}", self.path.display()))
    }

    fn html(&self) -> String {
        let title = match &self.ready {
            Some(Event::Ready { domain, .. }) => domain.as_str(),
            _ => "A job",
        };
        let mut page = format!("{OPENING}{HEAD}");
        paragraph(&mut page, "title", title);
        paragraph(&mut page, "h1", title);
        paragraph(&mut page, "p", &self.end);
        self.add_scores(&mut page);
        self.add_curves(&mut page);
        paragraph(&mut page, "h2", "The job");
        paragraph(&mut page, "p", &self.plan);
        if let Some(facts) = self.ready.as_ref().and_then(facts) {
            paragraph(&mut page, "p", &facts);
        }
        self.notes.iter().for_each(|note| paragraph(&mut page, "p", note));
        self.add_settings(&mut page);
        page
    }

    /// What the last scoring that holds every learner says of each text.
    fn add_scores(&self, page: &mut String) {
        let Some((_, scores)) = self.scorings.last() else { return };
        paragraph(page, "h2", "Bits per byte on text that was held out");
        page.push_str("<div><table>\n<tr><th>text</th>");
        for name in ["before", "fast", "slow", "slow to before"] {
            let _ = write!(page, "<th class=\"number\">{name}</th>");
        }
        page.push_str("</tr>\n");
        let mut rows: Vec<(Text, Option<&str>)> =
            scores.iter().map(|score| (score.text, score.domain.as_deref())).collect();
        rows.sort_unstable();
        rows.dedup();
        for (text, domain) in rows {
            let of = |who| score(scores, text, domain, who);
            let name =
                domain.map_or(name(text).to_owned(), |domain| format!("{}: {domain}", name(text)));
            let _ = write!(page, "<tr><td>{}</td>", Escaped(&name));
            for value in [of(Who::Before), of(Who::Fast), of(Who::Slow)] {
                let _ = write!(page, "<td class=\"number\">{}</td>", number(value, 4, ""));
            }
            let change = 100.0 * (of(Who::Slow) / of(Who::Before) - 1.0);
            let _ = writeln!(page, "<td class=\"number\">{}</td></tr>", number(change, 1, " %"));
        }
        page.push_str("</table></div>\n");
    }

    fn add_curves(&self, page: &mut String) {
        let steps = thin(&self.steps);
        let course = |of: fn(&Step) -> f64| -> Vec<[f64; 2]> {
            steps.iter().map(|step| [step.at, of(step)]).collect()
        };
        let losses = [
            ("fresh text", course(|step| step.fresh)),
            ("replayed text", course(|step| step.replay)),
        ];
        page.push_str(&picture("Loss while it learned", "nats a label", &losses));
        let held = [
            ("fast to slow, squared", course(|step| step.embedding)),
            ("fast to base, nats", course(|step| step.anchor)),
        ];
        page.push_str(&picture("What holds the fast learner", "distance", &held));
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
        page.push_str(&picture("Held-out text along the job", "bits per byte", &scored));
    }

    /// Every setting; those that are not as they start stand out.
    fn add_settings(&self, page: &mut String) {
        let (Ok(Value::Object(now)), Ok(first)) =
            (serde_json::to_value(&self.settings), serde_json::to_value(Settings::default()))
        else {
            return;
        };
        paragraph(page, "h2", "Settings");
        page.push_str("<div><table>\n<tr><th>setting</th><th>value</th><th>default</th></tr>\n");
        for (key, value) in now {
            let class = if value == first[&key] { "" } else { " class=\"chosen\"" };
            let (value, first) = (shown(&value), shown(&first[&key]));
            let _ = writeln!(
                page,
                "<tr{class}><td>{}</td><td>{}</td><td>{}</td></tr>",
                Escaped(&key),
                Escaped(&value),
                Escaped(&first)
            );
        }
        page.push_str("</table></div>\n");
    }
}

/// Passes a place where a page can be written, and where nothing lies or a page of ours.
fn check_place(path: &Path) -> anyhow::Result<()> {
    check_own(path, OPENING.len())?;
    // Whether it can be written is found out before the job, not after.
    let fresh = fresh(path);
    check_own(&fresh, 0)?;
    fs::write(&fresh, OPENING)
        .and_then(|()| fs::remove_file(&fresh))
        .with_context(|| format!("--report: cannot write beside {}", path.display()))
}

/// Passes a file that is not there, or that begins as ours do for at least so many bytes.
fn check_own(path: &Path, least: usize) -> anyhow::Result<()> {
    let shown = path.display();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| format!("--report: cannot read {shown}"))?,
    };
    let mut begins = Vec::new();
    file.take(OPENING.len() as u64)
        .read_to_end(&mut begins)
        .with_context(|| format!("--report: cannot read {shown}"))?;
    anyhow::ensure!(
        begins.len() >= least && OPENING.as_bytes().starts_with(&begins),
        "--report: {shown} is no page of an earlier job: expected one, or a new file; it is unchanged"
    );
    Ok(())
}

/// Where a page is written before it takes its place.
fn fresh(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

fn paragraph(page: &mut String, tag: &str, text: &str) {
    let _ = writeln!(page, "<{tag}>{}</{tag}>", Escaped(text));
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

fn number(value: f64, digits: usize, unit: &str) -> String {
    match (value.is_finite(), unit) {
        (false, _) => "–".to_owned(),
        (true, "") => format!("{value:.digits$}"),
        (true, unit) => format!("{value:+.digits$}{unit}"),
    }
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

/// Curves over the steps; nothing where there is nothing to draw.
fn picture(title: &str, unit: &str, curves: &[(impl AsRef<str>, Vec<[f64; 2]>)]) -> String {
    let drawn: Vec<(&str, Vec<[f64; 2]>)> = curves
        .iter()
        .map(|(name, points)| {
            (name.as_ref(), points.iter().copied().filter(|[_, y]| y.is_finite()).collect())
        })
        .filter(|(_, points): &(_, Vec<_>)| points.len() > 1)
        .collect();
    let of = |at: usize| drawn.iter().flat_map(|(_, points)| points).map(move |point| point[at]);
    let last = of(0).fold(0.0, f64::max);
    if drawn.is_empty() {
        return String::new();
    }
    let along = Axis::over(of(0).chain([0.0]), [AREA[0], AREA[2]], last.clamp(1.0, 8.0));
    let scale = Axis::over(of(1), HEIGHTS, 5.0);
    let mut svg = Svg::new(title, AREA[2]);
    svg.values(&scale, unit);
    svg.along(&along, "steps");
    for (index, (name, points)) in drawn.iter().enumerate() {
        let (colour, dash) = style(index);
        let places: Vec<(f64, f64, bool)> =
            points.iter().map(|&[x, y]| (along.at(x), scale.at(y), false)).collect();
        svg.line(&places, colour, dash);
        svg.legend(index, name, colour, dash);
    }
    svg.finish()
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
    fn what_a_name_or_a_message_holds_stays_text() {
        let mut page = page();
        page.take(&Event::Warning { message: "<script>x</script>".to_owned() });
        let html = page.html();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
    }

    #[test]
    fn a_setting_that_was_chosen_stands_out() {
        let html = page().html();
        let row = "<tr class=\"chosen\"><td>rank</td><td>3</td>";
        assert!(html.contains(row) && html.matches("class=\"chosen\"").count() == 1, "{html}");
    }
}
