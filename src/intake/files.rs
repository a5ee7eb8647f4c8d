//! The way in from disk: which files make a data set, and whether their bytes are text.

use super::bytes::unreadable;
use super::formats::{self, ending};
use super::{Dataset, Example, IntakeError, Part, Skipped, Source};
use crate::settings::{FILE_BYTES_MAX, FILES_MAX, FOLDER_DEPTH_MAX};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What the files of a split are called; the other names of `valid` count beside a `train` alone.
const TRAIN: &[&str] = &["train"];
const VALID: &[&str] = &["valid", "validation", "dev", "val", "eval"];
const TEST: &[&str] = &["test"];
const SPLIT_ENDINGS: [&str; 8] = ["jsonl", "ndjson", "json", "csv", "tsv", "txt", "md", "parquet"];

/// What was read, before anything is held out.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) train: Vec<Example>,
    /// None where the data has no such file.
    pub(super) valid: Option<Vec<Example>>,
    pub(super) test: Vec<Example>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) sources: Vec<Source>,
}

/// Reads a folder or a file; `-` is the caller's, see [`read`].
///
/// # Errors
/// [`IntakeError`] naming the file, and the line where there is one.
pub fn open(path: &Path) -> Result<Dataset, IntakeError> {
    parts(path).map(Dataset::of)
}

/// The same without anything held out that has no file of its own: nobody learns from it.
///
/// # Errors
/// As [`open`].
pub fn open_whole(path: &Path) -> Result<Dataset, IntakeError> {
    parts(path).map(Dataset::whole)
}

fn parts(path: &Path) -> Result<Parts, IntakeError> {
    let attributes = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !attributes.is_dir() {
        let mut parts = Parts::default();
        parts.train = parts.take(path, Part::Train, true)?;
        return Ok(parts);
    }
    let mut parts = Parts::default();
    let train = parts.split(path, TRAIN, Part::Train)?;
    // Other words of the language are no splits in a folder that is none.
    let names = if train.is_some() { VALID } else { &VALID[..1] };
    let valid = parts.split(path, names, Part::Valid)?;
    let test = parts.split(path, TEST, Part::Test)?;
    if train.is_none() && valid.is_none() && test.is_none() {
        return folder(path);
    }
    parts.valid = match (&train, valid) {
        (None, valid) => Some(valid.unwrap_or_default()),
        (Some(_), valid) => valid,
    };
    parts.train = train.unwrap_or_default();
    parts.test = test.unwrap_or_default();
    parts.skipped = others(path)?;
    Ok(parts)
}

/// Reads one stream, such as standard input; JSON lines are told by a first line that is an object, as in
/// a file that is named alone.
///
/// # Errors
/// [`IntakeError`] with `name` in the place of a path.
pub fn read(reader: impl Read, name: &str) -> Result<Dataset, IntakeError> {
    stream(reader, name).map(Dataset::of)
}

/// The same without anything held out.
///
/// # Errors
/// As [`read`].
pub fn read_whole(reader: impl Read, name: &str) -> Result<Dataset, IntakeError> {
    stream(reader, name).map(Dataset::whole)
}

fn stream(reader: impl Read, name: &str) -> Result<Parts, IntakeError> {
    let (train, kind) = formats::of_stream(reader, name)?;
    let source = Source { path: name.into(), part: Part::Train, kind, examples: train.len() };
    Ok(Parts { train, sources: vec![source], ..Parts::default() })
}

impl Parts {
    /// The examples of a file, which is noted.
    fn take(
        &mut self,
        path: &Path,
        part: Part,
        is_named: bool,
    ) -> Result<Vec<Example>, IntakeError> {
        let (examples, kind) = formats::examples(path, is_named)?;
        self.sources.push(Source { path: path.to_owned(), part, kind, examples: examples.len() });
        Ok(examples)
    }

    /// The examples of the file of a split, whatever its name and ending.
    fn split(
        &mut self,
        folder: &Path,
        names: &[&str],
        part: Part,
    ) -> Result<Option<Vec<Example>>, IntakeError> {
        let mut found = Vec::new();
        for name in names {
            for ending in SPLIT_ENDINGS {
                let plain = folder.join(format!("{name}.{ending}"));
                let packed = folder.join(format!("{name}.{ending}.gz"));
                found.extend([plain, packed].into_iter().filter(|path| path.is_file()));
            }
        }
        match found.as_slice() {
            [] => Ok(None),
            [path] => self.take(path, part, true).map(Some),
            [first, second, ..] => {
                let [first, second] = [first, second].map(|path| path.display().to_string());
                Err(IntakeError::Twice { name: folder.display().to_string(), first, second })
            }
        }
    }
}

/// What lies in a folder beside the files that say what they are for, by path; hidden ones are nobody's.
fn others(folder: &Path) -> Result<Vec<Skipped>, IntakeError> {
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let path = entry.map_err(|source| unreadable(folder, source))?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        let is_known = [TRAIN, VALID, TEST].iter().any(|names| names.contains(&stem));
        let is_whole = name.matches('.').count() == if ending(&path).1 { 2 } else { 1 };
        let is_split = is_known && is_whole && SPLIT_ENDINGS.contains(&ending(&path).0.as_str());
        if !name.starts_with('.') && !is_split {
            let why = "beside files called train, valid or test only those are read";
            others.push(Skipped { path, why });
        }
    }
    others.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(others)
}

/// Every text file of a folder and of those in it, by path; what is not text is passed over and named.
fn folder(path: &Path) -> Result<Parts, IntakeError> {
    let mut paths = Vec::new();
    walk(path, 0, &mut paths)?;
    paths.sort();
    let (mut parts, mut bytes) = (Parts::default(), 0);
    let mut foreign = None;
    for file in paths {
        let why = match parts.take(&file, Part::Train, false) {
            Ok(more) => {
                bytes += more.iter().map(Example::bytes).sum::<usize>() as u64;
                parts.train.extend(more);
                None
            }
            Err(IntakeError::Binary { .. } | IntakeError::Empty { .. }) => Some("it is not text"),
            Err(error @ IntakeError::Foreign { .. }) => {
                foreign.get_or_insert(error);
                Some("such files are not read: write it as JSON lines")
            }
            Err(error) => return Err(error),
        };
        parts.skipped.extend(why.map(|why| Skipped { path: file, why }));
        if bytes > FILE_BYTES_MAX {
            return Err(IntakeError::TooMany { name: path.display().to_string() });
        }
    }
    match foreign {
        _ if !parts.train.is_empty() => Ok(parts),
        Some(foreign) => Err(foreign),
        None => Err(IntakeError::Empty { name: path.display().to_string() }),
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::intake::{HeldOut, Kind};

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
            ("train.old.jsonl", b"{}"),
            (".hidden", b"no"),
        ];
        let folder = holding(&files);
        let data = open(folder.path()).unwrap();
        let names = data.skipped.iter().map(|one| one.path.strip_prefix(folder.path()).unwrap());
        assert!(
            names.eq(["more", "notes.md", "train.old.jsonl"].map(Path::new)),
            "{:?}",
            data.skipped
        );
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
        // Of several files one after the other, each has its own.
        let joined = "\u{feff}{\"text\":\"a\"}\n\u{feff}{\"text\":\"b\"}\n";
        assert_eq!(read_whole(joined.as_bytes(), "-").unwrap().train.len(), 2);
    }

    #[test]
    fn arrays_and_tables_are_read_by_their_keys_and_columns() {
        let folder = holding(&[
            ("a.json", b"[\n {\"instruction\": \"say\", \"input\": \"\", \"output\": \"ok\"},\n {\"text\": \"b\"}\n]"),
            ("b.csv", b"\xef\xbb\xbfid,prompt,completion\n1,\"a, \"\"b\"\"\nc\",d\n"),
            ("c.tsv", b"text\nx\ny\n"),
            ("d.json", b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n"),
            ("e.json", b"{\n \"text\": \"a\"\n}\n"),
        ]);
        let read = |name: &str| open_whole(&folder.path().join(name)).unwrap();
        let array = read("a.json");
        assert!(matches!(&array.train[0], Example::Messages(talk) if talk.turns.len() == 2));
        assert_eq!((array.train.len(), array.sources[0].kind), (2, Kind::Array));
        let (prompt, completion) = ("a, \"b\"\nc".into(), "d".into());
        assert_eq!(read("b.csv").train, [Example::Completion { prompt, completion }]);
        assert_eq!(read("c.tsv").train, ["x", "y"].map(|text| Example::Text(text.into())));
        assert_eq!((read("d.json").train.len(), read("e.json").train.len()), (2, 1));
        let refusal = |name: &str, bytes: &[u8]| {
            let folder = holding(&[(name, bytes)]);
            open(&folder.path().join(name)).unwrap_err().to_string()
        };
        assert!(refusal("a.json", b"[{\"text\":\"a\"},{\"txt\":1}]").contains("a.json, item 2"));
        assert!(refusal("a.json", b"[1, 2]").contains("a.json is no JSON array of objects"));
        assert!(refusal("a.csv", b"question,reply\na,b\n").contains("got question, reply"));
        let ragged = refusal("a.csv", b"prompt,completion\na\n");
        assert!(ragged.contains("line: 2"), "{ragged}");
        assert!(refusal("a.csv", b"text\n").contains("is empty"));
        for name in ["a.parquet", "train.parquet"] {
            let refused = refusal(name, b"PAR1");
            assert!(refused.contains(name) && refused.contains("JSON lines"), "{refused}");
        }
    }

    /// A folder of programs has tables and arrays that are no data.
    #[test]
    fn in_a_folder_of_text_what_is_no_data_is_text() {
        let folder = holding(&[
            ("a.json", b"{\"name\": \"tool\"}"),
            ("b.csv", b"x,y\n1,2\n"),
            ("c.json", b"[{\"text\": \"one\"}, {\"text\": \"two\"}]"),
            ("d.parquet", b"PAR1"),
        ]);
        let data = open_whole(folder.path()).unwrap();
        let kinds: Vec<Kind> = data.sources.iter().map(|source| source.kind).collect();
        assert_eq!(kinds, [Kind::Text, Kind::Text, Kind::Array]);
        assert_eq!((data.train.len(), data.skipped.len()), (4, 1));
        let only = open(holding(&[("d.parquet", b"PAR1")]).path()).unwrap_err().to_string();
        assert!(only.contains("d.parquet"), "{only}");
    }

    #[test]
    fn other_names_of_valid_count_beside_train_and_two_are_refused() {
        for name in ["validation.jsonl", "dev.txt", "val.json", "eval.md", "validation.jsonl.gz"] {
            let text = if name.contains("json") { "{\"text\":\"v\"}" } else { "v" };
            let bytes = if name.ends_with("gz") { packed(text.as_bytes()) } else { text.into() };
            let folder = holding(&[("train.txt", b"a"), (name, &bytes)]);
            let data = open(folder.path()).unwrap();
            assert_eq!(data.held_out, HeldOut::Given, "{name}");
            assert_eq!(data.valid, [Example::Text("v".into())], "{name}");
            assert!(data.skipped.is_empty());
        }
        let twice = refusal(&[("train.txt", b"a"), ("valid.txt", b"v"), ("dev.txt", b"v")]);
        assert!(twice.contains("valid.txt") && twice.contains("dev.txt"), "{twice}");
        let prose =
            open_whole(holding(&[("eval.md", b"how to"), ("more.md", b"x")]).path()).unwrap();
        assert_eq!(prose.train.len(), 2, "no split without train");
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn what_gzip_packed_is_read_to_its_end_or_refused() {
        let two = [packed(b"{\"text\":\"a\"}\n"), packed(b"{\"text\":\"b\"}\n")].concat();
        let folder =
            holding(&[("a.jsonl.gz", &two), ("b.jsonl.gz", &two[..20]), ("c.txt.gz", b"no")]);
        let read = |name: &str| open_whole(&folder.path().join(name));
        assert_eq!(read("a.jsonl.gz").unwrap().train.len(), 2, "both of its members");
        for name in ["b.jsonl.gz", "c.txt.gz"] {
            assert!(read(name).unwrap_err().to_string().contains(name), "{name}");
        }
    }

    #[test]
    fn what_is_scored_is_read_whole() {
        let text = "line\n\n".repeat(100);
        let folder = holding(&[("a.txt", text.as_bytes())]);
        let data = open_whole(&folder.path().join("a.txt")).unwrap();
        assert_eq!((data.train, data.held_out), (vec![Example::Text(text)], HeldOut::None));
    }
}
