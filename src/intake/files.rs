//! The way in from disk: which files make a data set, and whether their bytes are text.

use super::{Dataset, Example, IntakeError, Skipped, lines};
use crate::settings::{FILE_BYTES_MAX, FILES_MAX, FOLDER_DEPTH_MAX};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

const SPLITS: [&str; 3] = ["train", "valid", "test"];
const SPLIT_ENDINGS: [&str; 3] = ["jsonl", "txt", "md"];

/// Reads a folder or a file; `-` is the caller's, see [`read`].
///
/// # Errors
/// [`IntakeError`] naming the file, and the line where there is one.
pub fn open(path: &Path) -> Result<Dataset, IntakeError> {
    let attributes = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !attributes.is_dir() {
        let name = path.display().to_string();
        let file = fs::File::open(path).map_err(|source| unreadable(path, source))?;
        let examples = if is_lines(path) { examples_of(path)? } else { told(file, &name)? };
        return Ok(Dataset::of(examples, None, Vec::new(), Vec::new()));
    }
    let [train, valid, test] = SPLITS.map(|stem| split(path, stem));
    let [train, valid, test] = [train?, valid?, test?];
    if train.is_none() && valid.is_none() && test.is_none() {
        return folder(path);
    }
    let valid = match (&train, valid) {
        (None, valid) => Some(valid.unwrap_or_default()),
        (Some(_), valid) => valid,
    };
    Ok(Dataset::of(train.unwrap_or_default(), valid, test.unwrap_or_default(), others(path)?))
}

/// Reads one stream, such as standard input; JSON lines are told by a first line that is an object, as in
/// a file that is named alone.
///
/// # Errors
/// [`IntakeError`] with `name` in the place of a path.
pub fn read(reader: impl Read, name: &str) -> Result<Dataset, IntakeError> {
    Ok(Dataset::of(told(reader, name)?, None, Vec::new(), Vec::new()))
}

fn told(reader: impl Read, name: &str) -> Result<Vec<Example>, IntakeError> {
    let text = text_of(reader, name)?;
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let object = serde_json::from_str::<serde_json::Map<_, _>>(first).is_ok();
    if object { lines::examples(&text, name) } else { Ok(vec![Example::Text(text)]) }
}

/// Whether a file has JSON lines by its name.
fn is_lines(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ending.eq_ignore_ascii_case("jsonl") || ending.eq_ignore_ascii_case("ndjson")
}

/// The examples of `train.jsonl`, `train.txt` or `train.md`, whichever there is.
fn split(folder: &Path, stem: &str) -> Result<Option<Vec<Example>>, IntakeError> {
    let found: Vec<PathBuf> = SPLIT_ENDINGS
        .iter()
        .map(|ending| folder.join(format!("{stem}.{ending}")))
        .filter(|path| path.is_file())
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [path] => Ok(Some(examples_of(path)?)),
        [first, second, ..] => {
            let [first, second] = [first, second].map(|path| path.display().to_string());
            Err(IntakeError::Twice { name: folder.display().to_string(), first, second })
        }
    }
}

/// What lies in a folder beside the files that say what they are for, by path; hidden ones are nobody's.
fn others(folder: &Path) -> Result<Vec<Skipped>, IntakeError> {
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let path = entry.map_err(|source| unreadable(folder, source))?.path();
        let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let (stem, ending) = (part(path.file_stem()), part(path.extension()));
        let is_split = SPLITS.contains(&&*stem) && SPLIT_ENDINGS.contains(&&*ending);
        if !part(path.file_name()).starts_with('.') && !is_split {
            let why = "beside files called train, valid or test only those are read";
            others.push(Skipped { path, why });
        }
    }
    others.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(others)
}

/// Every text file of a folder and of those in it, by path; what is not text is passed over and named.
fn folder(path: &Path) -> Result<Dataset, IntakeError> {
    let mut paths = Vec::new();
    walk(path, 0, &mut paths)?;
    paths.sort();
    let (mut examples, mut skipped, mut bytes) = (Vec::new(), Vec::new(), 0);
    for file in paths {
        match examples_of(&file) {
            Ok(more) => {
                bytes += more.iter().map(Example::bytes).sum::<usize>() as u64;
                examples.extend(more);
            }
            Err(IntakeError::Binary { .. } | IntakeError::Empty { .. }) => {
                skipped.push(Skipped { path: file, why: "it is not text" });
            }
            Err(error) => return Err(error),
        }
        if bytes > FILE_BYTES_MAX {
            return Err(IntakeError::TooMany { name: path.display().to_string() });
        }
    }
    if examples.is_empty() {
        return Err(IntakeError::Empty { name: path.display().to_string() });
    }
    Ok(Dataset::of(examples, None, Vec::new(), skipped))
}

/// Collects regular files; hidden ones and linked folders are left alone, so a loop of links ends.
fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), IntakeError> {
    for entry in fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let entry = entry.map_err(|source| unreadable(folder, source))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(|source| unreadable(&path, source))?;
        if kind.is_dir() && depth < FOLDER_DEPTH_MAX {
            walk(&path, depth + 1, paths)?;
        } else if kind.is_dir() || paths.len() >= FILES_MAX {
            return Err(IntakeError::TooMany { name: folder.display().to_string() });
        } else if path.is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

fn examples_of(path: &Path) -> Result<Vec<Example>, IntakeError> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|source| unreadable(path, source))?;
    let text = text_of(file, &name)?;
    if is_lines(path) {
        return lines::examples(&text, &name);
    }
    Ok(vec![Example::Text(text)])
}

/// All bytes as text: not empty, not binary, within the limit, without a byte-order mark.
fn text_of(reader: impl Read, name: &str) -> Result<String, IntakeError> {
    let mut bytes = Vec::new();
    let source = reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    source.map_err(|source| IntakeError::Read { name: name.to_owned(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(IntakeError::TooLarge { name: name.to_owned() });
    }
    let nul = bytes.iter().position(|&byte| byte == 0).map(|at| (at, "NUL byte"));
    let foreign = std::str::from_utf8(&bytes).err();
    let foreign = foreign.map(|error| (error.valid_up_to(), "byte that is not UTF-8"));
    if let Some((at, got)) = nul.into_iter().chain(foreign).min() {
        let line = 1 + bytes.iter().take(at).filter(|&&byte| byte == b'\n').count();
        return Err(IntakeError::Binary { name: name.to_owned(), line, got });
    }
    let mut text = String::from_utf8(bytes).unwrap_or_default();
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.trim().is_empty() {
        return Err(IntakeError::Empty { name: name.to_owned() });
    }
    Ok(text)
}

fn unreadable(path: &Path, source: std::io::Error) -> IntakeError {
    IntakeError::Read { name: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::intake::HeldOut;

    fn holding(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn refusal(files: &[(&str, &[u8])]) -> String {
        open(holding(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_of_splits_keeps_its_own_held_out_text() {
        let lines = b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
        let folder = holding(&[
            ("train.jsonl", lines),
            ("valid.jsonl", b"{\"text\":\"v\"}"),
            ("test.txt", b"t"),
        ]);
        let data = open(folder.path()).unwrap();
        assert_eq!((data.train.len(), data.held_out), (2, HeldOut::Given));
        assert_eq!(data.valid, vec![Example::Text("v".into())]);
        assert_eq!(data.test, vec![Example::Text("t".into())]);
    }

    #[test]
    fn a_folder_without_valid_splits_train_and_leaves_test_alone() {
        let folder =
            holding(&[("train.txt", "line\n\n".repeat(100).as_bytes()), ("test.txt", b"t")]);
        let data = open(folder.path()).unwrap();
        assert!(matches!(data.held_out, HeldOut::Split { bytes: 50..=60, .. }));
        assert_eq!(data.test, vec![Example::Text("t".into())]);
        let only_test = open(holding(&[("test.txt", b"t")]).path()).unwrap();
        assert!(only_test.train.is_empty() && only_test.valid.is_empty());
    }

    #[test]
    fn a_folder_of_text_is_read_in_order_of_paths_and_binaries_are_named() {
        let files: [(&str, &[u8]); 5] = [
            ("b.md", b"two"),
            ("a/x.rs", b"one"),
            ("c.jsonl", b"{\"text\":\"three\"}"),
            (".hidden", b"no"),
            ("picture.png", b"\x89PNG\0"),
        ];
        let folder = holding(&files);
        let data = open(folder.path()).unwrap();
        let all = [data.train, data.valid].concat();
        let texts: Vec<_> = all.iter().flat_map(Example::parts).collect::<Vec<_>>();
        assert_eq!(texts.concat(), "onetwothree");
        let path = folder.path().join("picture.png");
        assert_eq!(data.skipped, vec![Skipped { path, why: "it is not text" }]);
    }

    #[test]
    fn what_lies_beside_files_that_say_what_they_are_for_is_named() {
        let files: [(&str, &[u8]); 6] = [
            ("train.jsonl", b"{\"text\":\"a\"}"),
            ("valid.txt", b"v"),
            ("notes.md", b"never read"),
            ("more/train.jsonl", b"{\"text\":\"b\"}"),
            ("train.json", b"[]"),
            (".hidden", b"no"),
        ];
        let folder = holding(&files);
        let data = open(folder.path()).unwrap();
        let names = data.skipped.iter().map(|one| one.path.strip_prefix(folder.path()).unwrap());
        assert!(names.eq(["more", "notes.md", "train.json"].map(Path::new)), "{:?}", data.skipped);
    }

    #[test]
    fn the_hash_is_of_the_examples_and_not_of_their_place() {
        let hash = |bytes: &[u8]| open(holding(&[("a.txt", bytes)]).path()).unwrap().hash;
        assert_eq!(hash(b"some text"), hash(b"some text"));
        assert_ne!(hash(b"some text"), hash(b"some texT"));
        let line = read(&b"{\"text\":\"some text\"}"[..], "-").unwrap();
        assert_eq!(line.hash, hash(b"some text"));
    }

    #[test]
    fn a_stream_is_told_apart_by_its_first_line() {
        let lines = read(&b"\n{\"text\":\"a\"}\n{\"text\":\"b\"}\n"[..], "-").unwrap();
        assert_eq!((lines.train.len(), lines.valid.len()), (1, 1));
        let folder = holding(&[("x.txt", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n")]);
        let file = open(&folder.path().join("x.txt")).unwrap();
        assert_eq!((file.train, file.valid), (lines.train, lines.valid), "one rule for both");
        let code = read(&b"{ int x; }\n"[..], "-").unwrap();
        assert!(matches!(&code.train[0], Example::Text(text) if text.starts_with("{ int")));
    }

    #[test]
    fn empty_binary_missing_and_doubled_data_are_refused_by_name() {
        assert!(refusal(&[]).contains("is empty"));
        assert!(refusal(&[("train.txt", b" \n\n")]).contains("train.txt is empty"));
        let nul = refusal(&[("train.txt", b"one\ntwo\0")]);
        assert!(nul.contains("binary") && nul.contains("NUL byte in line 2"), "{nul}");
        assert!(refusal(&[("train.txt", b"\xff\xfe")]).contains("not UTF-8 in line 1"));
        assert!(refusal(&[("train.txt", b"a"), ("train.md", b"b")]).contains("has both"));
        let missing = open(Path::new("no/such/data")).unwrap_err().to_string();
        assert!(missing.contains("no/such/data"), "{missing}");
        let broken = refusal(&[("train.jsonl", b"{\"text\":\"a\"}\n{\"text\":")]);
        assert!(broken.contains("train.jsonl, line 2"), "{broken}");
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let data = read("\u{feff}{\"text\":\"a\"}".as_bytes(), "-").unwrap();
        assert_eq!(data.train, vec![Example::Text("a".into())]);
    }
}
