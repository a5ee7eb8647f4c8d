//! Lines over time as SVG.
//!
//! - In: a title, series. Out: the text of a picture that needs nothing beside it, as those of
//!   `sapwood-bench`.

use sapwood_plot::Axis;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 260.0;
/// The area of the values: left, top, right, bottom.
const AREA: [f64; 4] = [80.0, 40.0, 720.0, 210.0];
/// Of Okabe and Ito.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"];

/// A name, and values over time.
pub(crate) struct Series {
    /// What it is called.
    pub name: &'static str,
    /// Time and value.
    pub(crate) points: Vec<(f64, f64)>,
}

/// The picture.
///
/// - `across`: what the time is of.
pub(crate) fn plot(title: &str, across: &str, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|one| one.points.iter());
    let along = Axis::over(all().map(|point| point.1).chain([0.0]), [AREA[3], AREA[1]], 4.0);
    let time = Axis::over(all().map(|point| point.0), [AREA[0], AREA[2]], 4.0);
    let [left, top, right, bottom] = AREA;
    let mut svg = sapwood_plot::head([WIDTH, HEIGHT], title);
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"24\" font-weight=\"bold\">{title}</text>");
    for tick in along.ticks() {
        let (y, digits) = (along.at(tick), along.digits());
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{tick:.digits$}</text>",
            left - 8.0,
            y + 4.5
        );
    }
    for tick in time.ticks() {
        let (x, digits) = (time.at(tick), time.digits());
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick:.digits$}</text>",
            bottom + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555555\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{across}</text>",
        f64::midpoint(left, right),
        bottom + 38.0
    );
    for (at, one) in series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let finite = one.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let points: Vec<String> =
            finite.map(|(x, y)| format!("{:.1},{:.1}", time.at(*x), along.at(*y))).collect();
        let y = top + 6.0 + 20.0 * at as f64;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <path d=\"M736 {y}h22\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"764\" y=\"{}\">{}</text>",
            points.join(" "),
            y + 4.5,
            one.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_holds_its_values_and_survives_none() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 9.7)];
        let svg = plot("a title", "minutes", &[Series { name: "one", points }]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && svg.contains(">one<") && svg.contains("minutes"));
        assert!(!plot("none", "minutes", &[]).contains("NaN"));
    }
}
