//! The front over the ridge as SVG: the devices' own text against that of the others.
//!
//! - In: a record. Out: the text of a file: a point for each ridge, joined in their order, and a mark for
//!   every other rule; mean over seeds, after the last install.
//! - Needs nothing beside the file, as the plots of `sapwood stream`.

use super::record::Record;
use super::report::mean;
use super::rule::Rule;
use sapwood_plot::Axis;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 520.0;
/// The area of the values: left, top, right, bottom.
const AREA: [f64; 4] = [80.0, 60.0, 700.0, 440.0];
/// Of Okabe and Ito: the ridges, the other rules.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];

/// What the ridge that devices choose is called here.
const CHOSEN: &str = "and rehearsal";

struct Point {
    name: String,
    x: f64,
    y: f64,
    /// Whether it is one of the ridges.
    joined: bool,
}

/// The plot of what is on record.
pub(crate) fn plot(record: &Record) -> String {
    let points: Vec<Point> = record.rules().iter().filter_map(|rule| point(record, rule)).collect();
    let across = Axis::over(points.iter().map(|point| point.x), [AREA[0], AREA[2]], 5.0);
    let along = Axis::over(points.iter().map(|point| point.y), [AREA[3], AREA[1]], 5.0);
    let mut svg = head();
    grid(&across, &along, &mut svg);
    let place = |point: &Point| (across.at(point.x), along.at(point.y));
    let line: Vec<String> = points
        .iter()
        .filter(|point| point.joined)
        .map(|point| format!("{:.1},{:.1}", place(point).0, place(point).1))
        .collect();
    svg.push_str(&format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
        line.join(" "),
        COLOURS[0]
    ));
    for point in &points {
        let (x, y) = place(point);
        let colour = COLOURS[usize::from(!point.joined)];
        // Names beyond the middle stand to the left of their mark, and one that is among the ridges.
        let left = x > f64::midpoint(AREA[0], AREA[2]) || point.name == CHOSEN;
        let (away, anchor) = if left { (-9.0, "end") } else { (9.0, "start") };
        svg.push_str(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            x + away,
            y - 6.0,
            point.name
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

fn point(record: &Record, rule: &str) -> Option<Point> {
    let last = record.setup.rounds;
    let figures = |of: fn(&super::play::Scores) -> f64| -> Option<f64> {
        let figures = record.figures(rule, last, |it| mean(&it.after, of));
        let sum: f64 = figures.iter().map(|figure| figure.1).sum();
        (!figures.is_empty()).then(|| sum / figures.len() as f64)
    };
    let (x, y) = (figures(|it| it.own)?, figures(|it| it.others)?);
    let ridge = Rule::ridge_of(rule);
    let simple = if rule == Rule::Settle.title() { CHOSEN } else { rule };
    let name = ridge.map_or_else(|| simple.to_owned(), |ridge| ridge.to_string());
    Some(Point { name, x, y, joined: ridge.is_some() })
}

fn head() -> String {
    let title = "After the last install: a device's own domain and the others', by ridge";
    let mut svg = sapwood_plot::head([WIDTH, HEIGHT], title);
    svg.push_str(&format!(
        "<text x=\"{}\" y=\"30\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n",
        AREA[0]
    ));
    svg
}

/// Lines at the ticks of both axes, and what they are of.
fn grid(across: &Axis, along: &Axis, svg: &mut String) {
    let [left, top, right, bottom] = AREA;
    for tick in across.ticks() {
        let x = across.at(tick);
        svg.push_str(&format!(
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#dddddd\"/><text x=\"{x:.1}\" y=\"{}\" \
             text-anchor=\"middle\">{tick:.*}</text>\n",
            bottom + 20.0,
            across.digits()
        ));
    }
    for tick in along.ticks() {
        let y = along.at(tick);
        svg.push_str(&format!(
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{tick:.*}</text>\n",
            left - 8.0,
            y + 4.5,
            along.digits()
        ));
    }
    let (middle, centre) = (f64::midpoint(left, right), f64::midpoint(top, bottom));
    svg.push_str(&format!(
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555555\"/>\n\
         <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">own domain, bits per byte</text>\n\
         <text transform=\"translate(22 {centre}) rotate(-90)\" text-anchor=\"middle\">other domains, \
         bits per byte</text>\n",
        bottom + 46.0
    ));
}
