//! A page of HTML that needs nothing beside it, and the file that it goes into.
//!
//! - In: text, tables, pictures. Out: a file, whole; text stays text, whatever a name or a message holds.
//! - Invariant: only a page that was made here is replaced.

use super::picture::Escaped;
use anyhow::Context;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How every page begins: it tells ours from others.
const OPENING: &str = "<!doctype html>\n<meta name=\"generator\" content=\"Sapwood\">\n";
/// The rest of the head. Nothing is loaded.
const HEAD: &str = "<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
    <style>\n\
    :root { color-scheme: light dark; font: 16px/1.5 sans-serif }\n\
    body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }\n\
    svg { max-width: 100%; height: auto }\n\
    div { overflow-x: auto }\n\
    table { border-collapse: collapse; font-variant-numeric: tabular-nums }\n\
    th, td { padding: .15rem .8rem .15rem 0; text-align: left; font-weight: normal }\n\
    td { white-space: nowrap }\n\
    td.number, th.number { text-align: right }\n\
    tr.chosen td { font-weight: bold }\n\
    </style>\n";

/// A page in the making.
pub(super) struct Html(String);

impl Html {
    /// A page of that name, which is its heading too.
    pub(super) fn new(title: &str) -> Self {
        let mut html = Self(format!("{OPENING}{HEAD}"));
        html.tagged("title", title);
        html.tagged("h1", title);
        html
    }

    /// A heading.
    pub(super) fn heading(&mut self, text: &str) {
        self.tagged("h2", text);
    }

    /// A paragraph.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.tagged("p", text);
    }

    fn tagged(&mut self, tag: &str, text: &str) {
        let _ = writeln!(self.0, "<{tag}>{}</{tag}>", Escaped(text));
    }

    /// A picture, as SVG.
    pub(super) fn picture(&mut self, svg: &str) {
        self.0.push_str(svg);
    }

    /// A table; the first `words` columns are words, the others numbers. A row may be chosen from among
    /// the others.
    pub(super) fn table(
        &mut self,
        words: usize,
        header: &[&str],
        rows: impl IntoIterator<Item = (bool, Vec<String>)>,
    ) {
        let class = |column: usize| if column < words { "" } else { " class=\"number\"" };
        self.0.push_str("<div><table>\n<tr>");
        for (column, name) in header.iter().enumerate() {
            let _ = write!(self.0, "<th{}>{}</th>", class(column), Escaped(name));
        }
        self.0.push_str("</tr>\n");
        for (is_chosen, row) in rows {
            self.0.push_str(if is_chosen { "<tr class=\"chosen\">" } else { "<tr>" });
            for (column, cell) in row.iter().enumerate() {
                let _ = write!(self.0, "<td{}>{}</td>", class(column), Escaped(cell));
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</table></div>\n");
    }

    /// The page.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// A number of so many digits, or a dash for what is none.
pub(super) fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "–".to_owned() }
}

/// Passes a place where a page can be written, and where nothing lies or a page of ours; `flag` named it.
pub(super) fn check_place(flag: &str, path: &Path) -> anyhow::Result<()> {
    check_own(flag, path, OPENING.len())?;
    // Whether it can be written is found out before the work, not after.
    let fresh = fresh(path);
    check_own(flag, &fresh, 0)?;
    fs::write(&fresh, OPENING)
        .and_then(|()| fs::remove_file(&fresh))
        .with_context(|| format!("{flag}: cannot write beside {}", path.display()))
}

/// Writes a page; it takes its place whole.
pub(super) fn write(flag: &str, path: &Path, page: &str) -> anyhow::Result<()> {
    check_place(flag, path)?;
    let fresh = fresh(path);
    fs::write(&fresh, page)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("{flag}: cannot write {}", path.display()))
}

/// Passes a file that is not there, or that begins as ours do for at least so many bytes.
fn check_own(flag: &str, path: &Path, least: usize) -> anyhow::Result<()> {
    let shown = path.display();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| format!("{flag}: cannot read {shown}"))?,
    };
    let mut begins = Vec::new();
    file.take(OPENING.len() as u64)
        .read_to_end(&mut begins)
        .with_context(|| format!("{flag}: cannot read {shown}"))?;
    anyhow::ensure!(
        begins.len() >= least && OPENING.as_bytes().starts_with(&begins),
        "{flag}: {shown} is no page that was written here: expected one, or a new file; it is unchanged"
    );
    Ok(())
}

/// Where a page is written before it takes its place.
fn fresh(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_holds_stays_text_wherever_it_stands() {
        let name = "<script>x</script>";
        let mut html = Html::new(name);
        html.heading(name);
        html.paragraph(name);
        html.table(1, &[name, "b"], [(true, vec![name.to_owned(), "2".to_owned()])]);
        let page = html.finish();
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() == 6, "{page}");
        assert!(page.contains("<tr class=\"chosen\"><td>&lt;script"), "{page}");
        assert!(page.contains("<td class=\"number\">2</td>"), "{page}");
    }
}
