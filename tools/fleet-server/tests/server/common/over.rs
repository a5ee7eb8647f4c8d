//! A suite once more over the other stores: what its tests say holds over every one.
//!
//! - A suite is a module of this program and runs over SQLite and a folder by itself. `over_every_store!()`
//!   adds three tests to it, which run all its others over Postgres, over S3 and over both, in processes of
//!   their own.
//! - Where a service is absent, that is told under the test's name, as by the service's own tests.

use super::postgres;
use super::s3;
use std::process::Command;

/// What the three tests are in, which do not run themselves.
const OWN: &str = "over_every_store";

/// Adds the three tests to a suite. Named are those that look into a fleet's folder for its blobs.
macro_rules! over_every_store {
    ($($in_folder:literal),*) => {
        mod over_every_store {
            use crate::common::over::{again, suite};

            const IN_FOLDER: &[&str] = &[$($in_folder),*];

            #[test]
            fn sqlite_and_s3() {
                again(suite(module_path!()), false, Some(IN_FOLDER));
            }

            #[test]
            fn postgres_and_a_folder() {
                again(suite(module_path!()), true, None);
            }

            #[test]
            fn postgres_and_s3() {
                again(suite(module_path!()), true, Some(IN_FOLDER));
            }
        }
    };
}
pub(crate) use over_every_store;

/// The suite that a module of this program is or belongs to.
pub(crate) fn suite(module: &str) -> &str {
    module.split("::").nth(1).unwrap()
}

/// Runs a suite once more. `in_a_bucket`: over S3, but for those that look for the blobs in a folder.
pub(crate) fn again(suite: &str, is_postgres: bool, in_a_bucket: Option<&[&str]>) {
    let book = if is_postgres { "postgres" } else { "sqlite" };
    let test = match in_a_bucket {
        Some(_) => format!("{suite}_{book}_s3"),
        None => format!("{suite}_{book}"),
    };
    if is_postgres && !postgres::is_there(&test) {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let skipped = [&[OWN][..], in_a_bucket.unwrap_or_default()].concat();
    let own = format!("{suite}::");
    let listed =
        Command::new(&program).args([&own, "--list", "--format", "terse"]).output().unwrap();
    let all = String::from_utf8(listed.stdout).unwrap();
    let left_out =
        all.lines().filter(|line| skipped.iter().any(|name| line.contains(name))).count();
    let mut command = Command::new(program);
    command.arg(own).env("SAPWOOD_BOOK", book);
    for name in &skipped {
        command.args(["--skip", name]);
    }
    let weed = in_a_bucket.map(|_| s3::weed(&test));
    match weed {
        // It has been told.
        Some(None) => return,
        Some(Some(weed)) => {
            weed.tells(&mut command, weed.address, &test);
        }
        None => {}
    }
    let ran = command.output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let whole = format!("ok. {} passed; 0 failed; 0 ignored", all.lines().count() - left_out);
    assert!(ran.status.success() && said[0].contains(&whole), "{test}\n{}{}", said[0], said[1]);
    if let Some(weed) = weed.flatten() {
        weed.has_kept(&test);
    }
}
