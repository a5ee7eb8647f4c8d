//! What a run of a job may spend, and what it has spent: seconds, joules, bytes written, starts a day.
//!
//! - In: limits from the configuration, readings, a clock, the count of a [`Meter`]. Out: what was
//!   spent, and why the run must stop.
//! - Energy is the difference of the hardware's counter where there is one, otherwise watts over time
//!   by trapezoids. It is the device's, not the job's alone: that is what empties a battery.
//! - A bound that cannot be measured does not bind, as the configuration says of joules.
//! - Never here: clocks, files. Starts are handed out as data ([`Starts::seconds`]) to be kept.
//! - Invariant: what was spent never decreases.

mod meter;

pub use meter::Meter;

use crate::config;
use crate::probe::Readings;
use heapless::HistoryBuf;
use jiff::Timestamp;
use std::time::Duration;

/// Seconds of the window in which starts are counted.
const DAY_SECONDS: u64 = 86_400;
/// Starts that are remembered; the oldest goes first.
pub const STARTS_KEPT: usize = config::JOBS_PER_DAY_MAX as usize;

/// What one run may spend, and what it has spent.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: config::Budget,
    started: Duration,
    seconds: f64,
    written_at_start: u64,
    written: u64,
    energy: Energy,
}

impl Budget {
    /// A run that begins now: `elapsed` of the clock, the readings, and the meter's count.
    pub fn begin(
        limits: &config::Budget,
        elapsed: Duration,
        readings: &Readings,
        written: u64,
    ) -> Self {
        let mut energy = Energy::default();
        energy.add(elapsed, readings);
        Self {
            limits: limits.clone(),
            started: elapsed,
            seconds: 0.0,
            written_at_start: written,
            written,
            energy,
        }
    }

    /// Takes account of what was spent since the last call; the same three, as of now.
    pub fn spend(&mut self, elapsed: Duration, readings: &Readings, written: u64) {
        self.seconds = self.seconds.max(elapsed.saturating_sub(self.started).as_secs_f64());
        self.written = self.written.max(written);
        self.energy.add(elapsed, readings);
    }

    /// Seconds since the run began.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Joules that the device drew meanwhile; none where it cannot tell.
    pub fn joules(&self) -> Option<f64> {
        self.energy.measured.then_some(self.energy.joules)
    }

    /// Bytes written meanwhile.
    pub fn bytes_written(&self) -> u64 {
        self.written.saturating_sub(self.written_at_start)
    }

    /// Why the run must stop now, if it must: what was spent, against its bound.
    pub fn spent_up(&self) -> Option<String> {
        let config::Budget { seconds, joules, bytes_written, .. } = self.limits;
        if let Some(limit) = seconds.filter(|&limit| self.seconds >= limit) {
            return Some(format!("budget.seconds: {:.0} of {limit:.0} s spent", self.seconds));
        }
        let drawn = self.energy.joules;
        if let Some(limit) = joules.filter(|&limit| drawn >= limit) {
            return Some(format!("budget.joules: {drawn:.0} of {limit:.0} J spent"));
        }
        let written = self.bytes_written();
        let limit = bytes_written.filter(|&limit| written >= limit)?;
        Some(format!("budget.bytes-written: {written} of {limit} bytes spent"))
    }
}

/// Joules, added up from whatever the device can measure.
#[derive(Clone, Debug, Default)]
struct Energy {
    joules: f64,
    /// Whether two readings were ever had to compare.
    measured: bool,
    counter: Option<f64>,
    watts: Option<(Duration, f32)>,
}

impl Energy {
    fn add(&mut self, at: Duration, readings: &Readings) {
        let watts = readings.watts.map(|watts| (at, watts));
        let step = self.by_counter(readings.joules).or_else(|| self.by_watts(watts));
        match step {
            Some(joules) => {
                self.joules += joules;
                self.measured = true;
                // Both begin anew together, so that no span is counted by one and then by the other.
                (self.counter, self.watts) = (readings.joules, watts);
            }
            None => {
                self.counter = readings.joules.or(self.counter);
                self.watts = watts.or(self.watts);
            }
        }
    }

    fn by_counter(&self, now: Option<f64>) -> Option<f64> {
        let step = now? - self.counter?;
        (step.is_finite() && step >= 0.0).then_some(step)
    }

    fn by_watts(&self, now: Option<(Duration, f32)>) -> Option<f64> {
        let ((now_at, now), (last_at, last)) = (now?, self.watts?);
        let mean = 0.5 * (f64::from(now) + f64::from(last));
        let step = mean * now_at.saturating_sub(last_at).as_secs_f64();
        (step.is_finite() && step >= 0.0).then_some(step)
    }
}

/// When runs of jobs began, as far as a day asks for it.
#[derive(Clone, Debug, Default)]
pub struct Starts(HistoryBuf<i64, STARTS_KEPT>);

impl Starts {
    /// As they were kept, oldest first: seconds since 1970, UTC.
    pub fn restore(seconds: &[i64]) -> Self {
        let mut starts = Self::default();
        starts.0.extend_from_slice(seconds);
        starts
    }

    /// To be kept, oldest first: seconds since 1970, UTC.
    pub fn seconds(&self) -> Vec<i64> {
        self.0.oldest_ordered().copied().collect()
    }

    /// Notes a start.
    pub fn record(&mut self, now: Timestamp) {
        self.0.write(now.as_second());
    }

    /// Starts within 24 hours. One that lies ahead counts too: a clock that was put back has not
    /// undone it. One that lies more than a day ahead was noted by a clock that was wrong.
    pub fn in_a_day(&self, now: Timestamp) -> u32 {
        let now = now.as_second();
        let near = |start: &&i64| start.abs_diff(now) < DAY_SECONDS;
        self.0.oldest_ordered().filter(near).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: config::Budget =
        config::Budget { seconds: None, joules: None, bytes_written: None, jobs_per_day: None };

    fn second(at: u64) -> Duration {
        Duration::from_secs(at)
    }

    fn watts(watts: f32) -> Readings {
        Readings { watts: Some(watts), ..Readings::default() }
    }

    fn counter(joules: f64) -> Readings {
        Readings { joules: Some(joules), ..Readings::default() }
    }

    /// Spends a table of moments and readings, and gives the joules after each.
    fn joules(table: &[(u64, Readings)]) -> Vec<Option<f64>> {
        let (at, first) = &table[0];
        let mut budget = Budget::begin(&NOTHING, second(*at), first, 0);
        let spend = |(at, readings): &(u64, Readings)| {
            budget.spend(second(*at), readings, 0);
            budget.joules()
        };
        table[1..].iter().map(spend).collect()
    }

    #[test]
    fn watts_are_added_up_by_trapezoids_across_a_reading_that_is_missing() {
        let table = [
            (10, watts(4.0)),
            (12, watts(8.0)),
            (14, Readings::default()),
            (16, watts(6.0)),
            (16, watts(100.0)),
        ];
        assert_eq!(joules(&table), [Some(12.0), Some(12.0), Some(40.0), Some(40.0)]);
    }

    #[test]
    fn a_counter_goes_before_watts_and_no_span_is_counted_twice() {
        let both = |joules, watts| Readings { watts: Some(watts), ..counter(joules) };
        let table = [
            (0, both(100.0, 1.0)),
            (10, both(150.0, 1.0)),
            (20, watts(3.0)),
            (30, both(400.0, 5.0)),
            (40, both(410.0, 5.0)),
            (50, both(0.0, 5.0)),
        ];
        // 50 by the counter; 20 and 40 by watts while it is away; 10 by the counter; 50 by watts
        // when it began anew.
        assert_eq!(joules(&table), [Some(50.0), Some(70.0), Some(110.0), Some(120.0), Some(170.0)]);
    }

    #[test]
    fn without_a_measurement_joules_are_unknown_and_bind_nobody() {
        assert_eq!(joules(&[(0, Readings::default()), (9, watts(3.0))]), [None]);
        let limits = config::Budget { joules: Some(1.0), ..NOTHING };
        let mut budget = Budget::begin(&limits, second(0), &Readings::default(), 0);
        budget.spend(second(9_999), &Readings::default(), 0);
        assert_eq!((budget.spent_up(), budget.joules()), (None, None));
    }

    #[test]
    fn each_bound_stops_a_run_when_it_is_reached_and_not_before() {
        let table = [
            (config::Budget { seconds: Some(60.0), ..NOTHING }, "budget.seconds: 60 of 60 s"),
            (config::Budget { joules: Some(300.0), ..NOTHING }, "budget.joules: 300 of 300 J"),
            (
                config::Budget { bytes_written: Some(6_000), ..NOTHING },
                "budget.bytes-written: 6000 of 6000 bytes",
            ),
        ];
        for (limits, why) in table {
            let mut budget = Budget::begin(&limits, second(1_000), &watts(5.0), 5_000);
            budget.spend(second(1_059), &watts(5.0), 10_900);
            assert_eq!(budget.spent_up(), None, "{why}");
            budget.spend(second(1_060), &watts(5.0), 11_000);
            assert!(budget.spent_up().is_some_and(|said| said.starts_with(why)), "{why}");
        }
        let mut boundless = Budget::begin(&NOTHING, second(0), &watts(5.0), 0);
        boundless.spend(Duration::MAX, &watts(f32::MAX), u64::MAX);
        assert_eq!(boundless.spent_up(), None);
    }

    #[test]
    fn what_was_spent_never_decreases() {
        let mut budget = Budget::begin(&NOTHING, second(100), &counter(50.0), 100);
        budget.spend(second(110), &counter(60.0), 200);
        budget.spend(second(90), &Readings { watts: Some(-5.0), ..counter(f64::NAN) }, 0);
        assert_eq!(
            (budget.seconds(), budget.joules(), budget.bytes_written()),
            (10.0, Some(10.0), 100)
        );
    }

    #[test]
    fn starts_of_the_last_day_are_counted_and_survive_a_restart() {
        let at =
            |hours: i64| Timestamp::from_second(1_800_000_000 + 3_600 * hours).unwrap_or_default();
        let mut starts = Starts::default();
        [0, 1, 23].into_iter().for_each(|hour| starts.record(at(hour)));
        assert_eq!(starts.in_a_day(at(23)), 3);
        assert_eq!(starts.in_a_day(at(24)), 2, "the first was a day ago");
        let kept = starts.seconds();
        assert_eq!(Starts::restore(&kept).in_a_day(at(24)), 2);
        assert_eq!(starts.in_a_day(at(-1)), 2, "a clock put back undoes no start");
        assert_eq!(starts.in_a_day(at(-9_999)), 0, "starts of a wrong clock block nobody");
    }

    #[test]
    fn the_ring_of_starts_keeps_its_newest() {
        let all: Vec<i64> = (0..STARTS_KEPT as i64 + 7).collect();
        assert_eq!(Starts::restore(&all).seconds(), all[7..]);
        assert_eq!(Starts::restore(&[i64::MIN, i64::MAX]).in_a_day(Timestamp::UNIX_EPOCH), 0);
    }
}
