//! The report of a stream as SVG: the course of every domain under each method, and what was forgotten.
//! Joint training has a course over the parts of its steps; it learns no domain before another, so it
//! can forget none.
//!
//! - In: a [`Report`]. Out: names and texts of files; the caller writes them.
//! - Needs nothing beside the file: no script, no style sheet, no font of its own.

use sapwood::gate::{MatrixError, Report, Run};
use sapwood_plot::Axis;
use std::fmt::{self, Display};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
/// The area of the values: left, top, right, bottom.
const AREA: [f64; 4] = [76.0, 56.0, 720.0, 420.0];
/// Where values stand, from the lowest on.
const HEIGHTS: [f64; 2] = [AREA[3], AREA[1]];
/// Okabe and Ito's colours, which stay apart for colour-blind eyes; yellow is too pale for a line.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Lines beyond the colours are told apart by dashes.
const DASHES: [&str; 3] = ["none", "7 4", "2 3"];

/// A plot for each method, mean over its seeds, and one of the forgetting of all: `(file name, SVG)`.
///
/// # Errors
/// [`MatrixError`] when a run is not finished.
pub(super) fn stream(report: &Report) -> Result<Vec<(String, String)>, MatrixError> {
    let summaries = report.summaries()?;
    let mut files = Vec::new();
    for summary in &summaries {
        let runs: Vec<&Run> =
            report.runs.iter().filter(|run| run.method == summary.method).collect();
        let along = if summary.is_joint() { "its steps" } else { "the stream" };
        let title = format!("{}: every domain along {along}", summary.method);
        let name = format!("stream-{}.svg", slug(&summary.method));
        files.push((name, courses(&title, &report.unit, &runs)));
    }
    let bars: Vec<Bar> = summaries
        .iter()
        .filter(|summary| !summary.is_joint())
        .map(|summary| Bar {
            name: &summary.method,
            value: summary.mean.forgetting,
            deviation: summary.deviation.forgetting,
        })
        .collect();
    let title = "Forgetting: mean loss on a domain since it was at its best";
    files.push(("forgetting.svg".to_owned(), forgetting(title, &report.unit, &bars)));
    Ok(files)
}

struct Bar<'a> {
    name: &'a str,
    value: f64,
    deviation: f64,
}

/// One line for each domain; the large mark is where it was learned, if it had a place of its own.
fn courses(title: &str, unit: &str, runs: &[&Run]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let domains = &first.matrix.domains;
    let lines: Vec<Vec<f64>> = (0..domains.len()).map(|domain| mean_course(runs, domain)).collect();
    let scale = Axis::over(lines.iter().flatten().copied(), HEIGHTS, 5.0);
    let mut svg = Svg::new(title, AREA[2]);
    svg.values(&scale, unit);
    let steps = domains.len().max(1) as f64;
    let place = |step: usize| AREA[0] + (AREA[2] - AREA[0]) * step as f64 / steps;
    let names = std::iter::once("before".to_owned()).chain(first.stops());
    for (step, name) in names.enumerate() {
        svg.under(place(step), &name);
    }
    let in_turn = !first.is_joint();
    for (index, (domain, line)) in domains.iter().zip(&lines).enumerate() {
        let (colour, dash) = style(index);
        let points: Vec<(f64, f64, bool)> = line
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_finite())
            .map(|(step, value)| (place(step), scale.at(*value), in_turn && step == index + 1))
            .collect();
        svg.line(&points, colour, dash);
        svg.legend(index, domain, colour, dash);
    }
    svg.finish()
}

fn forgetting(title: &str, unit: &str, bars: &[Bar]) -> String {
    let finite: Vec<&Bar> = bars.iter().filter(|bar| bar.value.is_finite()).collect();
    let ends = finite
        .iter()
        .flat_map(|bar| [bar.value - bar.deviation, bar.value + bar.deviation])
        .chain([0.0]);
    let scale = Axis::over(ends, HEIGHTS, 5.0);
    let mut svg = Svg::new(title, WIDTH - 40.0);
    svg.values(&scale, unit);
    let room = (svg.right - AREA[0]) / finite.len().max(1) as f64;
    for (index, bar) in finite.iter().enumerate() {
        let middle = AREA[0] + room * (index as f64 + 0.5);
        svg.bar(middle, room * 0.5, bar, &scale, COLOURS[index % COLOURS.len()]);
        svg.under(middle, bar.name);
    }
    svg.finish()
}

/// The course of one domain, mean over the runs.
fn mean_course(runs: &[&Run], domain: usize) -> Vec<f64> {
    let courses: Vec<Vec<f64>> = runs.iter().map(|run| run.matrix.course(domain)).collect();
    let steps = courses.iter().map(Vec::len).min().unwrap_or_default();
    (0..steps)
        .map(|step| courses.iter().map(|course| course[step]).sum::<f64>() / courses.len() as f64)
        .collect()
}

/// An SVG file in the making.
struct Svg {
    text: String,
    /// Where the area of the values ends.
    right: f64,
}

impl Svg {
    fn new(title: &str, right: f64) -> Self {
        let title = Escaped(title);
        let mut text = sapwood_plot::head([WIDTH, HEIGHT], &title);
        text.push_str(&format!(
            "<text x=\"{}\" y=\"30\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n",
            AREA[0]
        ));
        Self { text, right }
    }

    fn push(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    /// The axis of the values with its grid; its unit stands beside it.
    fn values(&mut self, scale: &Axis, unit: &str) {
        let ([left, top, _, bottom], right) = (AREA, self.right);
        let digits = scale.digits();
        for tick in scale.ticks() {
            let y = scale.at(tick);
            let colour = if tick == 0.0 { "#555555" } else { "#dddddd" };
            self.push(&format!(
                "<path d=\"M{left} {y:.1}H{right}\" stroke=\"{colour}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.digits$}</text>",
                left - 8.0,
                y + 4.5
            ));
        }
        let (middle, unit) = ((top + bottom) / 2.0, Escaped(unit));
        self.push(&format!(
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{unit}</text>\
             <path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555555\"/>"
        ));
    }

    /// A name under the axis, slanted so that long ones do not touch.
    fn under(&mut self, x: f64, name: &str) {
        let (y, name) = (AREA[3] + 18.0, Escaped(name));
        self.push(&format!(
            "<text transform=\"translate({x:.1} {y}) rotate(-28)\" text-anchor=\"end\" \
             font-size=\"12\">{name}</text>"
        ));
    }

    /// A line through `(x, y, large mark)`.
    fn line(&mut self, points: &[(f64, f64, bool)], colour: &str, dash: &str) {
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        self.push(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dash}\"/>",
            path.join(" ")
        ));
        for (x, y, large) in points {
            let radius = if *large { 6.0 } else { 2.5 };
            self.push(&format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>"
            ));
        }
    }

    fn legend(&mut self, index: usize, name: &str, colour: &str, dash: &str) {
        let (x, y, name) = (AREA[2] + 20.0, AREA[1] + 10.0 + 22.0 * index as f64, Escaped(name));
        self.push(&format!(
            "<path d=\"M{x} {y}h26\" stroke=\"{colour}\" stroke-width=\"3\" \
             stroke-dasharray=\"{dash}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            x + 34.0,
            y + 4.5
        ));
    }

    /// A bar from zero with its value above, and a whisker of one deviation to both sides.
    fn bar(&mut self, middle: f64, width: f64, bar: &Bar, scale: &Axis, colour: &str) {
        let Bar { value, deviation, .. } = *bar;
        let (zero, end) = (scale.at(0.0), scale.at(value));
        let (from, to) = (scale.at(value - deviation), scale.at(value + deviation));
        self.push(&format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <path d=\"M{middle:.1} {from:.1}V{to:.1}\" stroke=\"#222222\" stroke-width=\"2\"/>\
             <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.3}</text>",
            middle - width / 2.0,
            zero.min(end),
            (zero - end).abs(),
            to.min(zero) - 8.0
        ));
    }

    fn finish(mut self) -> String {
        self.push("</svg>");
        self.text
    }
}

fn style(index: usize) -> (&'static str, &'static str) {
    (COLOURS[index % COLOURS.len()], DASHES[(index / COLOURS.len()) % DASHES.len()])
}

/// Letters and digits of a name, the rest as single dashes.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<String> =
        words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    words.join("-")
}

/// Text between tags, without characters that XML takes for its own or forbids.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => to.write_str("&amp;")?,
                '<' => to.write_str("&lt;")?,
                '>' => to.write_str("&gt;")?,
                '"' => to.write_str("&quot;")?,
                letter if letter.is_control() => to.write_str(" ")?,
                letter => write!(to, "{letter}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood::gate::{Direction, Matrix};

    fn report() -> Report {
        let run = |method: &str, seed, lost: f64| Run {
            method: method.into(),
            seed,
            matrix: Matrix {
                domains: vec!["notes <1>".into(), "recipes & more".into(), "logs".into()],
                direction: Direction::LowerIsBetter,
                before: vec![3.0, 2.5, 4.0],
                rows: vec![
                    vec![1.5, 2.4, 3.9],
                    vec![1.6 + lost, 1.2, 3.8],
                    vec![1.6 + 2.0 * lost, 1.3 + lost, 1.0],
                ],
                general: vec![],
                prequential: vec![],
            },
        };
        let runs = vec![
            run("sequential LoRA", 0, 0.4),
            run("sequential LoRA", 1, 0.6),
            run("ER + EMA", 0, 0.0),
        ];
        Report { unit: "bits per byte".into(), runs, ..Report::default() }
    }

    fn names(files: &[(String, String)]) -> Vec<&str> {
        files.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn every_method_has_a_plot_with_a_line_for_each_domain() -> Result<(), MatrixError> {
        let files = stream(&report())?;
        let expected = ["stream-sequential-lora.svg", "stream-er-ema.svg", "forgetting.svg"];
        assert_eq!(names(&files), expected);
        let plot = &files[0].1;
        assert_eq!(plot.matches("<polyline").count(), 3);
        assert_eq!(plot.matches("r=\"6\"").count(), 3);
        assert!(plot.contains("notes &lt;1&gt;") && plot.contains("recipes &amp; more"));
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n"));
        Ok(())
    }

    #[test]
    fn a_bar_shows_the_mean_forgetting_of_a_method() -> Result<(), MatrixError> {
        let files = stream(&report())?;
        let (_, bars) = &files[2];
        // (0.9 + 0.5) / 2 and (1.3 + 0.7) / 2 have mean 0.85.
        assert!(bars.contains(">0.850<") && bars.contains(">0.100<"), "{bars}");
        Ok(())
    }

    #[test]
    fn joint_training_has_a_course_over_its_steps_and_no_bar() -> Result<(), MatrixError> {
        let mut report = report();
        let joint = Run { method: "joint".into(), ..report.runs[0].clone() };
        report.runs.push(joint);
        let files = stream(&report)?;
        assert_eq!(names(&files)[2..], ["stream-joint.svg", "forgetting.svg"]);
        let plot = &files[2].1;
        assert_eq!((plot.matches("<polyline").count(), plot.matches("r=\"6\"").count()), (3, 0));
        assert!(plot.contains(">1/3<") && plot.contains(">3/3<") && plot.contains("its steps"));
        let bars = &files[3].1;
        assert!(bars.contains(">ER + EMA<") && !bars.contains(">joint<"), "{bars}");
        Ok(())
    }

    #[test]
    fn odd_values_make_no_broken_number() -> Result<(), MatrixError> {
        let mut report = report();
        report.runs.truncate(1);
        report.runs[0].matrix.rows[1][0] = f64::NAN;
        report.runs[0].matrix.rows[2][2] = f64::INFINITY;
        for (_, svg) in stream(&report)? {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        Ok(())
    }
}
