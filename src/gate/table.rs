//! The tables of a stream for people, in Markdown, with what their columns mean.
//!
//! - In: a report, or the matrix of one run. Out: text.

use super::{MatrixError, Report, Run, Split, Summary};
use std::fmt::Write as _;

/// A metric as a column.
pub(super) struct Column {
    name: &'static str,
    /// Digits behind the point.
    digits: usize,
    /// What stands behind a number.
    unit: &'static str,
    /// Whether it says something only where one domain comes after the other.
    in_turn: bool,
    /// What it is.
    about: &'static str,
}

const fn score(name: &'static str, in_turn: bool, about: &'static str) -> Column {
    Column { name, digits: 4, unit: "", in_turn, about }
}

/// The metrics in the order of the table.
pub(super) const COLUMNS: [Column; 9] = [
    score("ACC", false, "mean score of all domains at the end"),
    score("LA", true, "mean score of each domain just after it was learned"),
    score("last", false, "score of the last domain at the end"),
    score("BWT", true, "mean gain on a domain since it was learned; below 0 it is a loss"),
    score("forgetting", true, "mean loss on a domain since it was at its best"),
    score("FWT", true, "mean gain on a domain before it is learned"),
    score("AAA", false, "mean along the stream of the mean score of the domains so far"),
    score("prequential", true, "mean score of new text just before it is learned, by fast"),
    Column {
        name: "general",
        digits: 2,
        unit: " %",
        in_turn: false,
        about: "how much the score of general text, which no domain learns, rose by the end",
    },
];

/// What stands where there is no number.
const NONE: &str = "-";

impl Report {
    /// All methods as a table, mean ± deviation over seeds, and a line on each column.
    ///
    /// # Errors
    /// [`MatrixError`] when a run is not finished.
    pub fn to_markdown(&self) -> Result<String, MatrixError> {
        let names = COLUMNS.map(|column| column.name).join(" | ");
        let mut table = format!("| method | seeds | {names} | share |\n");
        let _ = writeln!(table, "|{}", "---|".repeat(COLUMNS.len() + 3));
        for summary in self.summaries()? {
            table.push_str(&row(&summary));
        }
        table.push_str(&self.legend());
        Ok(table)
    }

    /// What was scored, and what each column says.
    fn legend(&self) -> String {
        let scored = match self.split {
            Split::Test => "test text",
            Split::Valid => {
                "the end of the training text, held out from learning, to choose settings by"
            }
        };
        let mut text = format!("\nScores are {} on {scored}; mean ± deviation.\n\n", self.unit);
        for Column { name, about, .. } in COLUMNS {
            let _ = writeln!(text, "- {name}: {about}.");
        }
        text.push_str("- share: part of the way from ER's ACC to that of joint training.\n");
        if self.runs.iter().any(Run::is_joint) {
            text.push_str(
                "- joint: all domains at once; AAA is over equal parts of its steps, and what needs \
                 one domain after the other is left out.\n",
            );
        }
        text
    }
}

fn row(summary: &Summary) -> String {
    let Summary { method, seeds, mean, deviation, share } = summary;
    let mut row = format!("| {method} | {seeds} |");
    let numbers = mean.values().into_iter().zip(deviation.values());
    for (Column { digits, unit, in_turn, .. }, (mean, deviation)) in COLUMNS.iter().zip(numbers) {
        let _ = match seeds {
            _ if mean.is_nan() || (*in_turn && summary.is_joint()) => write!(row, " {NONE} |"),
            1 => write!(row, " {mean:.digits$}{unit} |"),
            _ => write!(row, " {mean:.digits$} ± {deviation:.digits$}{unit} |"),
        };
    }
    let share = share.map_or(NONE.to_owned(), |share| format!("{share:.0} %"));
    let _ = writeln!(row, " {share} |");
    row
}

impl Run {
    /// R as a table, a row for each of its stops, b first; general text is the last column.
    pub fn to_markdown(&self) -> String {
        let columns: Vec<&str> = self.matrix.columns().collect();
        let mut table = format!("| after | {} |\n", columns.join(" | "));
        let _ = writeln!(table, "|---|{}", "---|".repeat(columns.len()));
        let names = std::iter::once("nothing".to_owned()).chain(self.stops());
        for (name, row) in names.zip(self.matrix.all_rows()) {
            let scores: Vec<String> = row.iter().map(|score| format!("{score:.4}")).collect();
            let _ = writeln!(table, "| {name} | {} |", scores.join(" | "));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Direction, Matrix};

    fn run(method: &str, seed: u64, end: f64) -> Run {
        let matrix = Matrix {
            domains: vec!["a, b".into(), "c".into()],
            direction: Direction::LowerIsBetter,
            before: vec![3.0, 3.0],
            rows: vec![vec![1.0, 2.5], vec![end, 1.0]],
            general: vec![2.0, 2.1, 2.2],
            prequential: vec![4.0, end],
        };
        Run { method: method.into(), seed, matrix }
    }

    fn report(split: Split) -> Report {
        let runs = vec![run("ER", 0, 2.0), run("ER", 1, 3.0), run("joint", 0, 1.0)];
        Report { unit: "bits per byte".into(), split, runs }
    }

    /// Oracle: by hand, from the numbers above.
    #[test]
    fn a_row_has_every_metric_in_its_place_and_a_line_that_explains_it() -> Result<(), MatrixError>
    {
        let table = report(Split::Test).to_markdown()?;
        let lines: Vec<&str> = table.lines().collect();
        let head = "| method | seeds | ACC | LA | last | BWT | forgetting | FWT | AAA | prequential | general | share |";
        assert_eq!(
            (lines[0], lines[1]),
            (head, "|---|---|---|---|---|---|---|---|---|---|---|---|")
        );
        assert_eq!(
            lines[2],
            "| ER | 2 | 1.7500 ± 0.3536 | 1.0000 ± 0.0000 | 1.0000 ± 0.0000 | -1.5000 ± 0.7071 \
             | 1.5000 ± 0.7071 | 0.5000 ± 0.0000 | 1.3750 ± 0.1768 | 3.2500 ± 0.3536 \
             | 10.00 ± 0.00 % | 0 % |"
        );
        assert_eq!(
            lines[3],
            "| joint | 1 | 1.0000 | - | 1.0000 | - | - | - | 1.0000 | - | 10.00 % | 100 % |"
        );
        for name in COLUMNS.map(|column| column.name) {
            assert!(lines.iter().any(|line| line.starts_with(&format!("- {name}: "))), "{table}");
        }
        assert!(table.contains("on test text") && table.contains("\n- share: "), "{table}");
        Ok(())
    }

    #[test]
    fn a_table_says_when_it_is_of_blocks_to_choose_settings_by() -> Result<(), MatrixError> {
        let table = report(Split::Valid).to_markdown()?;
        assert!(table.contains("end of the training text") && !table.contains("test"), "{table}");
        Ok(())
    }

    #[test]
    fn the_matrix_reads_as_a_table() {
        let report = report(Split::Test);
        let table = report.runs[0].to_markdown();
        let head = "| after | a, b | c | general text |\n|---|---|---|---|\n";
        assert!(table.starts_with(&format!("{head}| nothing | 3.0000 | 3.0000 | 2.0000 |\n")));
        assert!(table.ends_with("| c | 2.0000 | 1.0000 | 2.2000 |\n"), "{table}");
        let joint = report.runs[2].to_markdown();
        assert!(joint.contains("\n| 1/2 | 1.0000 |") && joint.contains("\n| 2/2 |"), "{joint}");
    }
}
