//! The lives of devices as one SVG: time, memory and disk over the steps, a line for each device.
//!
//! - In: rows of all devices. Out: the file's text; nothing beside it is needed.
//! - Every axis begins at zero, so that a line that looks flat is flat; what is beyond twice the
//!   median, a job that something else held up, is drawn at the upper edge.

use super::{DEVICES, Row, median, of};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
/// Height of a panel with its title and its steps.
const PANEL: f64 = 190.0;
/// Left and right end of every panel.
const SPAN: [f64; 2] = [80.0, 700.0];
/// Where a panel's values lie below its top.
const VALUES: [f64; 2] = [40.0, 160.0];
/// Okabe and Ito's first colours.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A panel: its title and what of a row it shows.
type Panel = (&'static str, fn(&Row) -> f64);

const PANELS: [Panel; 4] = [
    ("a step undisturbed by other programs, ms", |row| row.wall_ms),
    ("CPU time of a step with its share of gate and commit, ms", |row| row.cpu_ms),
    ("resident memory of the whole program, MiB", |row| row.resident_mib),
    ("state folder but for the reservoir, MiB", |row| row.state_mib),
];

/// All panels, one under the other.
pub(super) fn draw(rows: &[Row]) -> String {
    let height = PANEL * PANELS.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"#222222\">\n<title>The life of a device</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (index, panel) in PANELS.iter().enumerate() {
        text.push_str(&panel_of(rows, panel, PANEL * index as f64));
    }
    text.push_str("</svg>\n");
    text
}

fn panel_of(rows: &[Row], (title, column): &Panel, top: f64) -> String {
    let ([left, right], [low, high]) = (SPAN, [top + VALUES[1], top + VALUES[0]]);
    let largest = rows.iter().map(column).fold(0.0, f64::max);
    let most = round(largest.min(2.0 * median(rows.iter().map(column))));
    let steps = rows.iter().map(|row| row.step).max().unwrap_or(1).max(1) as f64;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        high - 14.0
    );
    for tick in 0..=4 {
        let part = f64::from(tick) / 4.0;
        let (x, y) = (left + (right - left) * part, low - (low - high) * part);
        let _ = writeln!(
            text,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}</text>",
            left - 8.0,
            y + 4.5,
            most * part,
            low + 17.0,
            steps * part
        );
    }
    for (index, (name, _)) in DEVICES.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let place = |row: &Row| {
            let x = left + (right - left) * row.step as f64 / steps;
            format!("{x:.1},{:.1}", low - (low - high) * column(row).min(most) / most)
        };
        let points: Vec<String> = of(rows, index).iter().map(place).collect();
        let (x, y) = (right + 16.0, high + 6.0 + 20.0 * index as f64);
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <path d=\"M{x} {y}h22\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            points.join(" "),
            x + 28.0,
            y + 4.5
        );
    }
    text
}

/// The next number above that reads well in quarters.
fn round(most: f64) -> f64 {
    let tenth = 10f64.powf(most.max(1e-6).log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0]
        .map(|factor| factor * tenth)
        .into_iter()
        .find(|round| *round >= most)
        .unwrap_or(most)
}
