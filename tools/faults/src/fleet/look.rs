//! What a disk must hold, whatever comes next: all that others know of the device.

use super::life::{Device, Moment, ROOT};
use firmware_host::sync::memory::Desk;
use firmware_host::sync::{Book, Store};
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::CutDisk;
use sapwood_protocol::fleet::id::{Hash, PublicKey};
use sapwood_protocol::fleet::key::SecretKey;
use std::path::Path;
use std::sync::Arc;

/// What lies beside the fleet's files, and is nobody's business.
const OTHERS: [(&str, &[u8]); 3] =
    [("notes", b"notes"), ("state/manifest.a", b"manifest"), ("state/fleet/book", b"another")];

/// A disk on which others have files.
///
/// # Errors
/// It takes none.
pub fn furnished() -> Result<CutDisk, String> {
    let disk = CutDisk::new();
    let furnish = || {
        disk.create_dir_all("state/fleet")?;
        OTHERS.iter().try_for_each(|(path, bytes)| disk.write(path, bytes))
    };
    furnish().map_err(|error| error.to_string())?;
    Ok(disk.copy())
}

/// The bytes of the book.
pub fn book(disk: &CutDisk) -> Option<Vec<u8>> {
    disk.copy().read("book").ok()
}

/// Whether a disk holds what it must, by what the server knows; its book.
///
/// # Errors
/// What is wrong.
pub fn check(disk: &CutDisk, desk: &Desk) -> Result<Option<Book>, String> {
    let disk = Arc::new(disk.copy());
    for (path, bytes) in OTHERS {
        if disk.read(path).ok().as_deref() != Some(bytes) {
            return Err(format!("{path}, which is another's, was touched"));
        }
    }
    names(&disk)?;
    let book = Store::on(disk.clone(), Path::new(ROOT)).book();
    let book = book.map_err(|error| format!("the book does not open: {error}"))?;
    if let Some(book) = &book {
        known(&disk, desk, book)?;
    }
    Ok(book)
}

/// Every file has a name of the fleet's folder; what is called whole is.
fn names(disk: &CutDisk) -> Result<(), String> {
    for path in disk.paths() {
        let plain = path.strip_suffix(".new").unwrap_or(&path);
        if ["book", "key", "key.next"].contains(&plain) || OTHERS.iter().any(|(o, _)| *o == path) {
            continue;
        }
        let coming = path.strip_prefix("incoming/");
        let name = coming.or_else(|| path.strip_prefix("outgoing/"));
        let name = name.ok_or_else(|| format!("{path} is no file of a fleet"))?;
        let hash = name.strip_suffix(".part").unwrap_or(name).parse::<Hash>();
        let hash = hash.map_err(|_| format!("{path} is no file of a fleet"))?;
        let is_whole = coming.is_some() && !name.ends_with(".part");
        if is_whole && disk.read(&path).map(|bytes| Hash::of(&bytes)).ok() != Some(hash) {
            return Err(format!("{path} is called whole, and is of another hash"));
        }
    }
    Ok(())
}

/// What the server knows of the device of this book stands on the disk.
fn known(disk: &CutDisk, desk: &Desk, book: &Book) -> Result<(), String> {
    let key = |name: &str| -> Option<PublicKey> {
        let bytes = disk.read(name).ok()?;
        Some(SecretKey::from_seed(bytes.last_chunk::<32>()?).public())
    };
    if let Some(device) = desk.devices.get(&book.device) {
        if key("key") != Some(device.key) && key("key.next") != Some(device.key) {
            return Err("the key that the server has is lost".to_owned());
        }
        if device.counter.is_some_and(|counter| counter >= book.counter) {
            return Err(format!("{:?} went out, the book has {}", device.counter, book.counter));
        }
    }
    for ((_, artifact), hash) in desk.uploads.iter().filter(|((id, _), _)| *id == book.device) {
        let sent = book.sent.as_ref().filter(|sent| sent.artifact == *artifact);
        let is_known = sent.map_or(book.given.contains(artifact), |sent| sent.hash == *hash);
        if !is_known {
            return Err(format!("the server has an update for {artifact} that the book forgot"));
        }
    }
    if let Some(sent) = &book.sent
        && disk.read(&format!("outgoing/{}", sent.hash)).map(|bytes| Hash::of(&bytes)).ok()
            != Some(sent.hash)
    {
        return Err("the file of a contribution is not what was sent".to_owned());
    }
    let artifact = book.pending.as_ref().filter(|one| one.fetched).and_then(|one| {
        let statement =
            sapwood_protocol::fleet::statement::Statement::decode(&one.signed.statement.0);
        Some(statement.ok()?.artifact)
    });
    match artifact.filter(|artifact| disk.read(&format!("incoming/{artifact}")).is_err()) {
        Some(artifact) => Err(format!("{artifact} is said to be here, and is not")),
        None => Ok(()),
    }
}

/// Starts the program on a disk; whether that changed it.
///
/// # Errors
/// It does not open, or what it leaves is wrong.
pub fn open(disk: &CutDisk, moment: &Moment) -> Result<bool, String> {
    let opened = Arc::new(disk.copy().recording());
    let mut device = Device::start(opened.clone(), moment.clone(), None)?;
    let amiss = device.amiss();
    if !amiss.is_empty() {
        return Err(format!("does not open: {amiss}"));
    }
    let book = check(&opened, &moment.desk)?;
    let sent = book.as_ref().and_then(|book| book.sent.as_ref());
    let of = |path: &String| sent.is_some_and(|sent| path.ends_with(&sent.hash.to_string()));
    let is_left =
        |path: &&String| path.ends_with(".new") || path.starts_with("outgoing/") && !of(path);
    match opened.paths().iter().find(is_left).filter(|_| book.is_some()) {
        Some(path) => Err(format!("{path} is left over")),
        None => Ok(opened.steps() > 0),
    }
}
