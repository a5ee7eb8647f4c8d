//! The report of a stream as SVG: the course of every domain under each method, and what was forgotten.
//! Joint training has a course over the parts of its steps; it learns no domain before another, so it
//! can forget none.
//!
//! - In: a [`Report`]. Out: names and texts of files; the caller writes them.

use super::picture::{AREA, HEIGHTS, Svg, WIDE, style};
use sapwood::gate::{MatrixError, Report, Run};
use sapwood_plot::Axis;

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
    let mut svg = Svg::new(title, WIDE);
    svg.values(&scale, unit);
    let room = (svg.right - AREA[0]) / finite.len().max(1) as f64;
    for (index, bar) in finite.iter().enumerate() {
        let middle = AREA[0] + room * (index as f64 + 0.5);
        svg.bar((middle, room * 0.5), (bar.value, bar.deviation), &scale, style(index).0);
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

/// Letters and digits of a name, the rest as single dashes.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<String> =
        words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    words.join("-")
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
