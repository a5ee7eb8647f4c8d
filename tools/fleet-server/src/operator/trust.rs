//! Orders about trust: which keys speak for the fleet from now on.
//!
//! - In: the roots that stand, and what is to change. Out: a new epoch, signed by them and by its own
//!   roots; devices follow it from whichever they hold.
//! - What is offered goes on being offered: a statement that the new keys did not sign is signed again.
//!   Who no longer believes its signers should take it back first.
//! - The server's new key lies in its file before the statement that names it is kept.
//! - Never here: what devices make of it (`sapwood_protocol::fleet::trust`).

use super::{OrderError, WHO};
use crate::cohorts::Cohort;
use crate::devices;
use crate::home::{self, Home};
use crate::ports::{Chance, draw};
use crate::rollout::{self, Release};
use crate::store::{Book, Columns, Statement};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::{Role, Statement as Offer};
use sapwood_protocol::fleet::trust::Trust;
use std::path::Path;

/// What a new epoch changes; what is empty or none stays as it was.
#[derive(Debug, Default)]
pub struct Change {
    /// Whether the server gets another key.
    pub online: bool,
    /// The keys that sign releases.
    pub release: Vec<SecretKey>,
    /// How many of them must.
    pub release_threshold: Option<u8>,
    /// The keys that name the next keys.
    pub root: Vec<SecretKey>,
    /// How many of them must.
    pub root_threshold: Option<u8>,
    /// How long it is believed, in seconds.
    pub seconds: u64,
}

/// A new epoch.
#[derive(Debug)]
pub struct Rotated {
    /// Its keys.
    pub trust: Trust,
    /// What was signed again.
    pub signed: Vec<Release>,
}

/// Makes a new epoch.
///
/// - `roots`: of those that stand, as many as must sign.
/// # Errors
/// [`OrderError`]; above all when too few roots sign, or something that is offered would have too few
/// signatures. The epoch that stands goes on.
pub fn rotate(
    home: &Home,
    roots: &[SecretKey],
    change: &Change,
    chance: &dyn Chance,
    now_ms: u64,
) -> Result<Rotated, OrderError> {
    let old = home.trust()?;
    let epoch = old.epoch + 1;
    let path = home.online_path(epoch);
    let drawn = change.online.then(|| online(&path, chance)).transpose()?;
    let online = drawn.as_ref().map(SecretKey::from_seed);
    let trust = next(&old, change, online.as_ref(), now_ms);
    apart(&trust)?;
    let statement = trust.encode()?;
    let mut signatures = Signatures::default();
    for key in roots.iter().chain(&change.root) {
        signatures.sign(key, &statement)?;
    }
    // As a device looks at it.
    old.next(&statement, &signatures)?;
    let mut all = vec![unmoved(releases(&home.book)?), still(old.epoch)];
    let sql = "insert into trust(epoch, statement, signatures) values ($1, $2, $3)";
    let row = [epoch.into(), statement.into(), signatures.encode().into()];
    all.push(Statement::one(sql, row));
    let mut signed = Vec::new();
    for release in rollout::unended(&home.book)? {
        if let Some(again) = again(&release, change, online.as_ref(), &trust, now_ms)? {
            all.push(rollout::signed_again(&release, &again));
            signed.push(release);
        }
    }
    let detail = format!("epoch {epoch}: {}", told(change));
    all.push(devices::audit(now_ms, WHO, "trust rotate", detail));
    if let Some(seed) = drawn.filter(|_| !path.exists()) {
        home::keep_own_key(&path, &seed)?;
    }
    home.book.write(all)?;
    Ok(Rotated { trust, signed })
}

/// The next statement of a cohort about an artifact of so many bytes, its signatures, which are enough, and
/// what holds while the fleet's keys are those of now.
///
/// # Errors
/// [`OrderError::Statement`], [`OrderError::Signatures`], [`OrderError::Home`].
pub(super) fn signed(
    home: &Home,
    cohort: &Cohort,
    (role, artifact, artifact_bytes): (Role, Hash, u64),
    keys: &[SecretKey],
    now_ms: u64,
) -> Result<(Offer, Vec<u8>, Statement), OrderError> {
    let issued_s = now_ms / 1000;
    let offer = Offer {
        role,
        fleet: home.fleet,
        cohort: cohort.id,
        sequence: cohort.sequence + 1,
        issued_s,
        expires_s: issued_s + cohort.policy.statement_days * 24 * 3600,
        artifact_bytes,
        artifact,
    };
    offer.check()?;
    let mut signatures = Signatures::default();
    for key in keys {
        signatures.sign(key, &offer.encode())?;
    }
    let trust = home.trust()?;
    offer.signed(&signatures, &trust, now_ms)?;
    Ok((offer, signatures.encode(), still(trust.epoch)))
}

/// Holds while no newer epoch is there: what the keys of this one signed may be kept.
fn still(epoch: u64) -> Statement {
    let sql =
        "update meta set version = version where (select coalesce(max(epoch), 0) from trust) = $1";
    Statement::one(sql, [epoch.into()])
}

/// How many statements there are, of any state.
fn releases(book: &dyn Book) -> Result<u64, OrderError> {
    let rows = book.read("select count(*) from release", &[])?;
    Ok(Columns::of(rows.into_iter().next().unwrap_or_default()).number()?)
}

/// Holds while nothing is offered that was not looked at.
fn unmoved(releases: u64) -> Statement {
    let sql = "update meta set version = version where (select count(*) from release) = $1";
    Statement::one(sql, [releases.into()])
}

/// The seed of the server's next key; one that lies there was made for an epoch that was not kept.
fn online(path: &Path, chance: &dyn Chance) -> Result<[u8; 32], OrderError> {
    Ok(if path.exists() { home::seed(path)? } else { draw(chance)? })
}

fn next(old: &Trust, change: &Change, online: Option<&SecretKey>, now_ms: u64) -> Trust {
    let public = |keys: &[SecretKey]| keys.iter().map(SecretKey::public).collect();
    Trust {
        fleet: old.fleet,
        epoch: old.epoch + 1,
        expires_s: (now_ms / 1000).saturating_add(change.seconds),
        online: online.map_or(old.online, SecretKey::public),
        root: if change.root.is_empty() { old.root.clone() } else { public(&change.root) },
        root_threshold: change.root_threshold.unwrap_or(old.root_threshold),
        release: if change.release.is_empty() {
            old.release.clone()
        } else {
            public(&change.release)
        },
        release_threshold: change.release_threshold.unwrap_or(old.release_threshold),
    }
}

/// Whether every key has one role: the server's key must not release, nor a release key name keys.
fn apart(trust: &Trust) -> Result<(), OrderError> {
    let online = [trust.online];
    let roles =
        [("the online", &online[..]), ("a release", &trust.release), ("a root", &trust.root)];
    for (at, (one, keys)) in roles.iter().enumerate() {
        for (other, others) in &roles[at + 1..] {
            if let Some(key) = keys.iter().find(|key| others.contains(key)) {
                return Err(OrderError::Shared { key: *key, one, other });
            }
        }
    }
    Ok(())
}

/// The signatures with which a statement goes on being offered; none where it needs no others.
fn again(
    release: &Release,
    change: &Change,
    online: Option<&SecretKey>,
    trust: &Trust,
    now_ms: u64,
) -> Result<Option<Vec<u8>>, OrderError> {
    let offer = Offer::decode(&release.statement)?;
    let holds = |signatures: &Signatures| offer.signed(signatures, trust, now_ms);
    let signed = Signatures::decode(&release.signatures)?;
    if release.expires_s <= now_ms / 1000 || holds(&signed).is_ok() {
        return Ok(None);
    }
    let keys: Vec<&SecretKey> = match release.role {
        Role::Candidate => online.into_iter().collect(),
        Role::Release => change.release.iter().collect(),
    };
    let mut signatures = if keys.is_empty() { signed } else { Signatures::default() };
    keys.into_iter().try_for_each(|key| signatures.sign(key, &release.statement))?;
    holds(&signatures)?;
    Ok(Some(signatures.encode()))
}

/// What a change changes, for the log.
fn told(change: &Change) -> String {
    let keys = |keys: &[SecretKey], what| match keys.len() {
        0 => None,
        count => Some(format!("{count} {what}")),
    };
    let online = change.online.then(|| "another online key".to_owned());
    let parts = [online, keys(&change.release, "release keys"), keys(&change.root, "root keys")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "the same keys".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::ports::SystemChance;

    /// What another order signed or offered in between is not passed over.
    #[test]
    fn what_the_keys_of_an_older_epoch_signed_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("fleet");
        let now_ms = 1_764_100_000_000;
        let wish = home::Wish { folder: &folder, name: "valves", tls: None, now_ms };
        home::init(&wish, &SystemChance).unwrap();
        let home = Home::open(&folder).unwrap();
        home.book.write(vec![still(1), unmoved(0)]).unwrap();
        assert!(home.book.write(vec![unmoved(1)]).unwrap_err().is_lost());
        let roots = [home::key(&folder.join("keys/root.key")).unwrap()];
        let change = Change { seconds: 60, ..Change::default() };
        rotate(&home, &roots, &change, &SystemChance, now_ms).unwrap();
        assert!(home.book.write(vec![still(1)]).unwrap_err().is_lost());
        home.book.write(vec![still(2)]).unwrap();
    }
}
