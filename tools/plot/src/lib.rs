//! What every plot of this workspace begins with: a picture of SVG, and axes that read well.
//!
//! - In: sizes, values. Out: text of a file that needs nothing beside it, and places in it.
//! - Never here: what is drawn, and where it is written.

use std::fmt::Display;

/// The beginning of a picture: its size in pixels, its font, its title for who does not see it.
///
/// - `title`: without characters that XML takes for its own.
pub fn head([width, height]: [f64; 2], title: impl Display) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"#222222\">\n<title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    )
}

/// Values from `low` to `high` in steps that read well, over a stretch of the picture.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    step: f64,
    stretch: [f64; 2],
}

impl Axis {
    /// An axis that holds all values that are finite, in about so many steps.
    pub fn over(values: impl Iterator<Item = f64>, stretch: [f64; 2], steps: f64) -> Self {
        let ends = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let finite = values.filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let span = (high - low).max(1e-6 * low.abs().max(1.0));
        let tenth = 10f64.powf((span / steps).log10().floor());
        let fits = |factor: &f64| span / (factor * tenth) <= steps + 1.0;
        let step = tenth * [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0);
        let low = (low / step).floor() * step;
        let high = ((high / step).ceil() * step).max(low + step);
        Self { low, high, step, stretch }
    }

    /// The place of a value in the picture.
    pub fn at(&self, value: f64) -> f64 {
        let [from, to] = self.stretch;
        from + (to - from) * (value - self.low) / (self.high - self.low)
    }

    /// The values that are named; the one that is zero is exactly so.
    pub fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        let tick = |at: usize| self.low + at as f64 * self.step;
        let exact = |tick: f64| if tick.abs() < self.step / 1e3 { 0.0 } else { tick };
        (0..=count.min(20)).map(move |at| exact(tick(at)))
    }

    /// Digits behind the point that tell two ticks apart.
    pub fn digits(&self) -> usize {
        (-self.step.log10().floor()).clamp(0.0, 9.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_its_values_and_few_ticks() {
        for values in
            [vec![], vec![2.0, 2.0], vec![0.0], vec![1.31, 1.94, f64::NAN], vec![0.1, 9.7]]
        {
            for steps in [4.0, 5.0] {
                let axis = Axis::over(values.iter().copied(), [10.0, 20.0], steps);
                let inside = |x: &f64| (10.0..=20.0).contains(&axis.at(*x));
                assert!(values.iter().filter(|x| x.is_finite()).all(inside), "{axis:?}");
                assert!((2..12).contains(&axis.ticks().count()), "{axis:?}");
                assert!(axis.ticks().all(f64::is_finite) && axis.digits() <= 9, "{axis:?}");
            }
        }
    }

    #[test]
    fn zero_is_exactly_zero() {
        let axis = Axis::over([-0.3, 0.3].into_iter(), [0.0, 1.0], 5.0);
        assert_eq!(axis.ticks().filter(|tick| *tick == 0.0).count(), 1);
        assert!(axis.ticks().all(|tick| tick == 0.0 || tick.abs() > 0.05));
    }
}
