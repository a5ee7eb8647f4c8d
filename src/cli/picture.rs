//! A picture in the making: an area with axes, and lines, bars and names in it, as SVG.
//!
//! - Needs nothing beside the file: no script, no style sheet, no font of its own.
//! - Never here: what is drawn.

use sapwood_plot::Axis;
use std::fmt::{self, Display};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
/// The area of the values: left, top, right, bottom.
pub(super) const AREA: [f64; 4] = [76.0, 56.0, 720.0, 420.0];
/// Where the area ends when nothing stands beside it.
pub(super) const WIDE: f64 = WIDTH - 40.0;
/// Where values stand, from the lowest on.
pub(super) const HEIGHTS: [f64; 2] = [AREA[3], AREA[1]];
/// Okabe and Ito's colours, which stay apart for colour-blind eyes; yellow is too pale for a line.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Lines beyond the colours are told apart by dashes.
const DASHES: [&str; 3] = ["none", "7 4", "2 3"];
/// Most points of a line that are marked one by one.
const MARKS_MAX: usize = 60;

/// An SVG file in the making.
pub(super) struct Svg {
    text: String,
    /// Where the area of the values ends.
    pub right: f64,
}

impl Svg {
    pub(super) fn new(title: &str, right: f64) -> Self {
        Self::high(title, right, HEIGHT)
    }

    /// One of another height.
    fn high(title: &str, right: f64, height: f64) -> Self {
        let title = Escaped(title);
        let mut text = sapwood_plot::head([WIDTH, height], &title);
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
    pub(super) fn values(&mut self, scale: &Axis, unit: &str) {
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
    pub(super) fn under(&mut self, x: f64, name: &str) {
        let (y, name) = (AREA[3] + 18.0, Escaped(name));
        self.push(&format!(
            "<text transform=\"translate({x:.1} {y}) rotate(-28)\" text-anchor=\"end\" \
             font-size=\"12\">{name}</text>"
        ));
    }

    /// Numbers under the axis, and what they count.
    pub(super) fn along(&mut self, scale: &Axis, name: &str) {
        let digits = scale.digits();
        for tick in scale.ticks() {
            let (x, y) = (scale.at(tick), AREA[3] + 20.0);
            self.push(&format!(
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{tick:.digits$}</text>"
            ));
        }
        let (middle, y, name) = ((AREA[0] + self.right) / 2.0, AREA[3] + 44.0, Escaped(name));
        self.push(&format!("<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>"));
    }

    /// A line through `(x, y, large mark)`.
    pub(super) fn line(&mut self, points: &[(f64, f64, bool)], colour: &str, dash: &str) {
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        self.push(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dash}\"/>",
            path.join(" ")
        ));
        // Marks that touch say nothing.
        let is_sparse = points.len() <= MARKS_MAX;
        for (x, y, large) in points.iter().filter(|(_, _, large)| *large || is_sparse) {
            let radius = if *large { 6.0 } else { 2.5 };
            self.push(&format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>"
            ));
        }
    }

    pub(super) fn legend(&mut self, index: usize, name: &str, colour: &str, dash: &str) {
        let (x, y, name) = (AREA[2] + 20.0, AREA[1] + 10.0 + 22.0 * index as f64, Escaped(name));
        self.push(&format!(
            "<path d=\"M{x} {y}h26\" stroke=\"{colour}\" stroke-width=\"3\" \
             stroke-dasharray=\"{dash}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            x + 34.0,
            y + 4.5
        ));
    }

    /// A bar from zero with its value above, and a whisker of one deviation to both sides.
    pub(super) fn bar(
        &mut self,
        (middle, width): (f64, f64),
        (value, deviation): (f64, f64),
        scale: &Axis,
        colour: &str,
    ) {
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

    pub(super) fn finish(mut self) -> String {
        self.push("</svg>");
        self.text
    }
}

/// Curves through points `[x, y]`, each with a name, over an axis that begins at 0 and counts `along`;
/// nothing where no curve has two points that are numbers.
pub(super) fn curves(
    title: &str,
    unit: &str,
    along: &str,
    curves: &[(impl AsRef<str>, Vec<[f64; 2]>)],
) -> String {
    let drawn: Vec<(&str, Vec<[f64; 2]>)> = curves
        .iter()
        .map(|(name, points)| {
            (name.as_ref(), points.iter().copied().filter(|[_, y]| y.is_finite()).collect())
        })
        .filter(|(_, points): &(_, Vec<_>)| points.len() > 1)
        .collect();
    if drawn.is_empty() {
        return String::new();
    }
    let of = |at: usize| drawn.iter().flat_map(|(_, points)| points).map(move |point| point[at]);
    // Few steps have no halves between them; what is no count has.
    let last = of(0).fold(0.0, f64::max);
    let ticks = if last > 1.0 { last.min(8.0) } else { 5.0 };
    let across = Axis::over(of(0).chain([0.0]), [AREA[0], AREA[2]], ticks);
    let scale = Axis::over(of(1), HEIGHTS, 5.0);
    let mut svg = Svg::high(title, AREA[2], AREA[3] + 60.0);
    svg.values(&scale, unit);
    svg.along(&across, along);
    for (index, (name, points)) in drawn.iter().enumerate() {
        let (colour, dash) = style(index);
        let places: Vec<(f64, f64, bool)> =
            points.iter().map(|&[x, y]| (across.at(x), scale.at(y), false)).collect();
        svg.line(&places, colour, dash);
        svg.legend(index, name, colour, dash);
    }
    svg.finish()
}

/// Numbers between 0 and 1 as a map: a row each, a column a name under it, darker for less.
pub(super) fn map(title: &str, columns: &[String], rows: &[(String, Vec<f64>)]) -> String {
    let (left, top) = (AREA[0] + 120.0, AREA[1]);
    let width = (WIDE - left) / columns.len().max(1) as f64;
    let height = ((AREA[3] - top) / rows.len().max(1) as f64).min(36.0);
    let mut svg = Svg::high(title, WIDE, top + height * rows.len() as f64 + 40.0);
    for (index, (name, values)) in rows.iter().enumerate() {
        let y = top + height * index as f64;
        let middle = y + height / 2.0 + 4.5;
        svg.push(&format!(
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            Escaped(name)
        ));
        for (column, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let x = left + width * column as f64;
            let (fill, ink) = shade(*value);
            svg.push(&format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                 fill=\"{fill}\"/>\
                 <text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"middle\" fill=\"{ink}\">{value:.3}</text>",
                x + width / 2.0
            ));
        }
    }
    for (column, name) in columns.iter().enumerate() {
        let x = left + width * (column as f64 + 0.5);
        let y = top + height * rows.len() as f64 + 20.0;
        svg.push(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
            Escaped(name)
        ));
    }
    svg.finish()
}

/// Numbers at the points of a square grid, row by row from below, darker for more, and places with names
/// among them.
pub(super) fn ground(
    title: &str,
    side: usize,
    points: &[([f64; 2], f64)],
    marks: &[(&str, [f64; 2])],
) -> String {
    let mut svg = Svg::high(title, AREA[2], AREA[3] + 60.0);
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else {
        return svg.finish();
    };
    // A point stands in the middle of its field.
    let half =
        |axis: usize| (last[axis] - first[axis]) / (2.0 * side.saturating_sub(1).max(1) as f64);
    let place = |axis: usize, ends: [f64; 2]| {
        let (low, high) = (first[axis] - half(axis), last[axis] + half(axis));
        move |value: f64| ends[0] + (ends[1] - ends[0]) * (value - low) / (high - low)
    };
    let (x, y) = (place(0, [AREA[0], AREA[2]]), place(1, HEIGHTS));
    let values = points.iter().map(|(_, value)| *value).filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    for (at, value) in points.iter().filter(|(_, value)| value.is_finite()) {
        let part = 1.0 - (value - low) / (high - low).max(f64::MIN_POSITIVE);
        let (left, top) = (x(at[0] - half(0)), y(at[1] + half(1)));
        let (width, height) = (x(at[0] + half(0)) - left, y(at[1] - half(1)) - top);
        let (fill, ink) = shade(part);
        svg.push(&format!(
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        ));
        if side <= NUMBERED_MAX {
            svg.push(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{ink}\">{value:.2}</text>",
                left + width / 2.0,
                top + height / 2.0 + 4.0
            ));
        }
    }
    for (index, (name, at)) in marks.iter().enumerate() {
        let (colour, dash) = style(index + 1);
        svg.push(&format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"7\" fill=\"{colour}\" stroke=\"#ffffff\" stroke-width=\"2\"/>",
            x(at[0]),
            y(at[1])
        ));
        svg.legend(index, name, colour, dash);
    }
    svg.finish()
}

/// Most points of a side that have their number written at them.
const NUMBERED_MAX: usize = 15;

/// The colour of a field, white for 1 and a dark blue for 0, and that of what is written on it.
fn shade(part: f64) -> (String, &'static str) {
    let part = part.clamp(0.0, 1.0);
    let [red, green, blue] = [(8.0, 247.0), (48.0, 251.0), (107.0, 255.0)]
        .map(|(dark, light)| (dark + (light - dark) * part) as u8);
    (format!("#{red:02x}{green:02x}{blue:02x}"), if part > 0.5 { "#222222" } else { "#ffffff" })
}

/// The colour and the dashes of a line; no two of the first 21 look the same.
pub(super) fn style(index: usize) -> (&'static str, &'static str) {
    (COLOURS[index % COLOURS.len()], DASHES[(index / COLOURS.len()) % DASHES.len()])
}

/// Text between tags, without characters that XML takes for its own or forbids.
pub(super) struct Escaped<'a>(pub &'a str);

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
