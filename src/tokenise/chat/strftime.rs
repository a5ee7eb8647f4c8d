//! `strftime_now` of chat templates: a fixed day, so that the same data gives the same tokens in every job.

use minijinja::{Error, ErrorKind};

/// `strftime` codes of 26 July 2024, midnight: the day that Llama's own templates fall back to.
const DAY: [(char, &str); 30] = [
    ('%', "%"),
    ('A', "Friday"),
    ('B', "July"),
    ('D', "07/26/24"),
    ('F', "2024-07-26"),
    ('G', "2024"),
    ('H', "00"),
    ('I', "12"),
    ('M', "00"),
    ('R', "00:00"),
    ('S', "00"),
    ('T', "00:00:00"),
    ('U', "29"),
    ('V', "30"),
    ('W', "30"),
    ('X', "00:00:00"),
    ('Y', "2024"),
    ('Z', ""),
    ('a', "Fri"),
    ('b', "Jul"),
    ('c', "Fri Jul 26 00:00:00 2024"),
    ('d', "26"),
    ('e', "26"),
    ('f', "000000"),
    ('h', "Jul"),
    ('j', "208"),
    ('m', "07"),
    ('p', "AM"),
    ('w', "5"),
    ('x', "07/26/24"),
];
/// More of them.
const MORE: [(char, &str); 6] =
    [('k', " 0"), ('l', "12"), ('u', "5"), ('y', "24"), ('n', "\n"), ('z', "")];

/// The day in `format`.
///
/// # Errors
/// A code that is not known.
pub(super) fn strftime(format: &str) -> Result<String, Error> {
    let mut written = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            written.push(letter);
            continue;
        }
        let mut code = letters.next();
        let is_short = code == Some('-');
        if is_short {
            code = letters.next();
        }
        let known = DAY.iter().chain(&MORE).find(|(known, _)| Some(*known) == code);
        let Some((_, value)) = known else {
            let problem = format!("strftime_now: unknown code in {format:?}");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        };
        let short = value.trim_start_matches(['0', ' ']);
        written.push_str(match (is_short, short) {
            (false, _) => value,
            (true, "") => "0",
            (true, short) => short,
        });
    }
    Ok(written)
}
