//! What is left of a run: CSV files, pictures, one page that holds everything, a summary for programs.
//!
//! - In: rows, rounds, events, counts. Out: text.

use crate::operator::{RoundRow, Story};
use crate::plot::{Series, plot};
use crate::tally::{Calls, Histogram, Kind};
use crate::watch::{COLUMNS, Row, csv};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io;
use std::path::Path;

/// What a run left.
pub struct Report {
    /// How it was asked for, in a line.
    pub asked: String,
    /// What is said of it beside numbers.
    pub setting: String,
    /// A row a minute.
    pub rows: Vec<Row>,
    /// Rounds and events.
    pub story: Story,
    /// All calls.
    pub calls: Calls,
    /// Counts by name.
    pub counts: Vec<(&'static str, f64)>,
}

/// A picture: its file, its title, columns.
const PICTURES: [(&str, &str, &[&str]); 6] = [
    ("latency", "a check-in with connection and TLS, ms", &["p50_ms", "p90_ms", "p99_ms"]),
    ("answer", "its parts, ms", &["answer_p50_ms", "answer_p99_ms", "tls_p50_ms"]),
    ("rate", "check-ins a second", &["check_ins_per_s"]),
    ("cpu", "processors that are busy", &["server_cpu", "own_cpu"]),
    ("memory", "resident, MiB", &["server_mib", "own_mib"]),
    ("stored", "on the disk, MiB", &["book_mib", "blobs_mib"]),
];

impl Report {
    /// Writes everything into a folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("minutes.csv"), csv(&self.rows))?;
        std::fs::write(folder.join("rounds.csv"), self.rounds())?;
        std::fs::write(folder.join("summary.json"), format!("{:#}\n", self.summary()))?;
        for (name, _, _) in PICTURES {
            std::fs::write(folder.join(format!("{name}.svg")), self.picture(name))?;
        }
        std::fs::write(folder.join("report.html"), self.page())
    }

    fn picture(&self, wanted: &str) -> String {
        let found = PICTURES.iter().find(|(name, ..)| *name == wanted);
        let Some((_, title, names)) = found else { return String::new() };
        let column = |wanted: &&'static str| {
            let number = COLUMNS.iter().find(|(name, _)| name == wanted).map(|(_, number)| number);
            let point =
                |row: &Row| (row.real_s[0] / 60.0, number.map_or(0.0, |number| number(row)));
            Series { name: wanted, points: self.rows.iter().map(point).collect() }
        };
        let series: Vec<Series> = names.iter().map(column).collect();
        plot(title, "real minutes", &series)
    }

    fn rounds(&self) -> String {
        let mut text =
            "round,opened_ms,closed_ms,merged_ms,released_ms,whole_ms,asked,came\n".to_owned();
        for row in &self.story.rounds {
            let RoundRow {
                id,
                opened_ms,
                closed_ms,
                merged_ms,
                released_ms,
                whole_ms,
                asked,
                came,
            } = row;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{id},{opened_ms},{closed_ms},{merged_ms},{released_ms},{whole_ms},{asked},{came}"
            );
        }
        text
    }

    /// The same for programs.
    pub fn summary(&self) -> Value {
        let ends: serde_json::Map<String, Value> = self
            .calls
            .ends
            .iter()
            .map(|((kind, how), count)| (format!("{}: {how}", kind.name()), json!(count)))
            .collect();
        let counts: serde_json::Map<String, Value> =
            self.counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
        json!({
            "asked": self.asked,
            "setting": self.setting,
            "check_in_ms": shown(&self.calls.whole),
            "answer_ms": shown(&self.calls.answer),
            "tls_ms": shown(&self.calls.shake),
            "check_ins": self.calls.ended(Kind::CheckIn, "ok"),
            "errors": self.calls.errors(),
            "ends": ends,
            "counts": counts,
            "rounds": self.story.rounds.len(),
            "events": self.story.events,
        })
    }

    /// One page that needs nothing beside it.
    fn page(&self) -> String {
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>A simulated fleet</title>\n\
             <style>body{{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\
             table{{border-collapse:collapse}}td,th{{padding:.2em .8em;text-align:right;\
             border-bottom:1px solid #ddd}}td:first-child,th:first-child{{text-align:left}}\
             svg{{max-width:100%;height:auto}}</style>\n<h1>A simulated fleet</h1>\n\
             <p><code>{}</code></p>\n<p>{}</p>\n",
            escaped(&self.asked),
            escaped(&self.setting)
        );
        table(&mut html, ["ms", "p50", "p90", "p99", "longest", "count"], &self.times());
        let counts = self.counts.iter().map(|(name, count)| {
            [(*name).to_owned(), format!("{}", (count * 1000.0).round() / 1000.0)]
        });
        table(&mut html, ["what", ""], &counts.collect::<Vec<_>>());
        let ends = self.calls.ends.iter();
        let ends = ends.map(|((kind, how), n)| [format!("{}: {how}", kind.name()), n.to_string()]);
        table(&mut html, ["calls that ended so", ""], &ends.collect::<Vec<_>>());
        for (name, _, _) in PICTURES {
            html.push_str(&self.picture(name));
        }
        let minutes = |ms: u64| format!("{:.1}", ms as f64 / 60_000.0);
        let events = self.story.events.iter().map(|(at, what)| [minutes(*at), what.clone()]);
        table(&mut html, ["simulated min", "what happened"], &events.collect::<Vec<_>>());
        let rounds = self.story.rounds.iter().rev().take(50).map(|row| {
            let from = |ms: u64| minutes(ms.saturating_sub(row.opened_ms));
            [
                row.id.to_string(),
                row.came.to_string(),
                from(row.closed_ms),
                from(row.merged_ms),
                from(row.whole_ms),
            ]
        });
        let head = ["round", "uploads", "closed after, min", "merged", "offered to all"];
        table(&mut html, head, &rounds.collect::<Vec<_>>());
        html.push_str("</html>\n");
        html
    }

    fn times(&self) -> Vec<[String; 6]> {
        let row = |name: &str, all: &Histogram| {
            let ms = |us: u64| format!("{:.1}", us as f64 / 1000.0);
            let quantile = |share| ms(all.quantile(share));
            let name = name.to_owned();
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(quantile);
            [name, p50, p90, p99, ms(all.max()), all.count().to_string()]
        };
        vec![
            row("a check-in, whole", &self.calls.whole),
            row("its answer alone", &self.calls.answer),
            row("connection and TLS of any call", &self.calls.shake),
        ]
    }
}

fn shown(all: &Histogram) -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| ms(all.quantile(share)));
    json!({"p50": p50, "p90": p90, "p99": p99, "max": ms(all.max()), "count": all.count()})
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn table<const N: usize>(html: &mut String, head: [&str; N], rows: &[[String; N]]) {
    if rows.is_empty() {
        return;
    }
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    let head = head.map(str::to_owned);
    let rows: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
    html.push_str(&format!("<table><tr>{}</tr>\n{rows}</table>\n<p></p>\n", cells("th", &head)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Tally, Took};

    #[test]
    fn a_page_holds_everything_and_no_markup_of_others() {
        let tally = Tally::default();
        tally.ended(Kind::CheckIn, "ok", Took { connect: 1, tls: 2, whole: 5_000 });
        let report = Report {
            asked: "fleet-sim run --policy '<script>'".into(),
            setting: "a test".into(),
            rows: vec![Row { real_s: [60.0, 60.0], calls: tally.minute(), ..Row::default() }],
            story: Story { rounds: vec![RoundRow::default()], events: vec![(1, "<b>".into())] },
            calls: tally.all(),
            counts: vec![("devices", 7.0)],
        };
        let page = report.page();
        assert!(!page.contains("<script>") && !page.contains("<b>") && page.contains("&lt;b&gt;"));
        assert!(page.contains("<svg") && !page.contains("src=") && !page.contains("href="));
        assert_eq!(report.summary()["check_in_ms"]["p50"], 5.0);
        assert_eq!(report.rounds().lines().count(), 2);
    }
}
