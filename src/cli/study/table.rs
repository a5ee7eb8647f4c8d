//! Tables of what a study found: as text for a terminal, and cells of CSV.

/// A table: its header, and its rows.
pub(super) type Table = (Vec<String>, Vec<Vec<String>>);

/// A table for a terminal.
pub(super) fn text(header: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(Vec::as_slice).chain([header]);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let line = |row: &[String]| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:<width$}")
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let lines: Vec<String> = rows.iter().map(|row| line(row)).collect();
    format!("{}\n{}", line(header), lines.join("\n"))
}

/// A row of words.
pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// A cell of CSV: quoted where it must be.
pub(super) fn cell(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
