//! The calls of a device and their answers, field by field.

use super::{Message, MessageError, check};
use crate::fleet::id::{
    Bytes, CohortId, DeviceId, FleetId, Hash, IdError, PublicKey, Signature, cohort,
};
use crate::fleet::statement::STATEMENT_BYTES;
use crate::limits::{
    FLEET_ADAPTER_BYTES_MAX, FLEET_CHECK_IN_S_MAX, FLEET_CHECK_IN_S_MIN, FLEET_NAME_BYTES_MAX,
    FLEET_PATH_BYTES_MAX, FLEET_RANK_MAX, FLEET_REASON_BYTES_MAX, FLEET_REPORTS_MAX,
    FLEET_SIGNATURES_MAX, FLEET_TOKEN_BYTES_MAX, FLEET_TRUST_BYTES_MAX, FLEET_TRUST_MAX,
};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a device adapts: with the operator's label, its cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// BLAKE3 of the base.
    pub base: Hash,
    /// The first adapted layer.
    pub first_layer: u16,
    /// The adapted linear layers, a bit each: q 1, k 2, v 4, o 8, gate 16, up 32, down 64.
    pub targets: u8,
    /// Rank r of the device's own part.
    pub rank: u32,
}

impl Facts {
    /// The cohort of devices with these facts and this label.
    ///
    /// # Errors
    /// [`IdError::Label`].
    pub fn cohort(&self, label: &str) -> Result<CohortId, IdError> {
        cohort(&self.base, self.first_layer, self.targets, label)
    }

    fn check(&self) -> Result<(), MessageError> {
        check::within("targets", u64::from(self.targets), 1, 127)?;
        check::within("rank", u64::from(self.rank), 1, u64::from(FLEET_RANK_MAX))
    }
}

/// What the server thinks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// It waits for an operator.
    Pending,
    /// It takes part.
    Accepted,
    /// It is stopped for now.
    Suspended,
    /// It was refused.
    Rejected,
    /// It was taken out.
    Retired,
}

/// `POST /v1/enroll`: a device asks to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enroll {
    /// The key that it signs with.
    pub public_key: PublicKey,
    /// What the enrolment link gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// For the operator.
    pub name: String,
    /// What it adapts.
    pub facts: Facts,
}

impl Message for Enroll {
    fn check(&self) -> Result<(), MessageError> {
        if let Some(token) = &self.token {
            check::word("token", token, FLEET_TOKEN_BYTES_MAX)?;
        }
        check::name("name", &self.name, 1, FLEET_NAME_BYTES_MAX)?;
        self.facts.check()
    }
}

/// A statement and its signatures, as they are kept: whoever gets them decodes and verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The bytes that were signed.
    pub statement: Bytes,
    /// The signatures.
    pub signatures: Bytes,
}

const SIGNATURES_BYTES_MAX: usize = 1 + (8 + 64) * FLEET_SIGNATURES_MAX;

impl Signed {
    fn check(&self) -> Result<(), MessageError> {
        let statement_max = FLEET_TRUST_BYTES_MAX - SIGNATURES_BYTES_MAX;
        check::bytes("statement", self.statement.0.len(), 1, statement_max)?;
        check::bytes("signatures", self.signatures.0.len(), 1, SIGNATURES_BYTES_MAX)
    }
}

/// The answer to [`Enroll`]; the same key gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The device's name from now on.
    pub device: DeviceId,
    /// Whether it may take part.
    pub state: DeviceState,
    /// The fleet.
    pub fleet: FleetId,
    /// The operator's label, once there is one: with it a device knows its cohort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The newest trust statement.
    pub trust: Signed,
    /// The server's time, ms since 1970.
    pub time: u64,
    /// Seconds until the device should check in.
    pub check_in_s: u64,
}

impl Message for Enrolled {
    fn check(&self) -> Result<(), MessageError> {
        if let Some(label) = &self.label {
            check::line("label", label, 0, FLEET_NAME_BYTES_MAX)?;
        }
        self.trust.check()?;
        check::number("time", self.time, 1)?;
        check_in(self.check_in_s)
    }
}

fn check_in(seconds: u64) -> Result<(), MessageError> {
    check::within("check_in_s", seconds, FLEET_CHECK_IN_S_MIN, FLEET_CHECK_IN_S_MAX)
}

/// What is installed on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Of the statement that it was taken from.
    pub sequence: u64,
    /// The global adapter.
    pub artifact: Hash,
}

/// What a device could upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Optimiser steps since it installed the artifact.
    pub steps: u64,
    /// Tokens of the text that it learned in them.
    pub tokens: u64,
}

/// How an install ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It runs, and its second look at held-out text was as good as the first.
    Confirmed,
    /// It ran, and the generation before it returned.
    Reverted,
    /// The gate kept what was there.
    Declined,
    /// It could not be fetched, read or written.
    Failed,
}

/// How the install of a statement ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of the statement.
    pub sequence: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in a line.
    pub reason: String,
    /// Bits per byte on held-out text with what was there before, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// The same with what was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
}

impl Report {
    fn check(&self) -> Result<(), MessageError> {
        check::number("sequence", self.sequence, 1)?;
        check::line("reason", &self.reason, 0, FLEET_REASON_BYTES_MAX)?;
        check::score("before", self.before)?;
        check::score("after", self.after)
    }
}

/// `POST /v1/checkin`: how a device is now; nothing in it is an order of things that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckIn {
    /// Grows with every check-in of the device; an older one is passed over.
    pub counter: u64,
    /// The program and its version.
    pub agent: String,
    /// What it adapts.
    pub facts: Facts,
    /// What is installed, nothing before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<Installed>,
    /// Whether that is on trial.
    pub trial: bool,
    /// Whether the device takes candidates; one of before says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<bool>,
    /// Number of the device's last commit.
    pub generation: u64,
    /// What it could upload, if it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// Ends of installs that the server has not acknowledged, oldest first.
    pub reports: Vec<Report>,
}

impl Message for CheckIn {
    fn check(&self) -> Result<(), MessageError> {
        check::number("counter", self.counter, 0)?;
        check::line("agent", &self.agent, 1, FLEET_NAME_BYTES_MAX)?;
        self.facts.check()?;
        if let Some(installed) = self.installed {
            check::number("sequence", installed.sequence, 1)?;
        }
        check::number("generation", self.generation, 0)?;
        if let Some(ready) = self.ready {
            check::number("steps", ready.steps, 1)?;
            check::number("tokens", ready.tokens, 1)?;
        }
        check::count("reports", self.reports.len(), FLEET_REPORTS_MAX)?;
        self.reports.iter().try_for_each(Report::check)
    }
}

/// A statement that is offered, and where its artifact lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The statement's bytes.
    pub statement: Bytes,
    /// Its signatures.
    pub signatures: Bytes,
    /// A path on this server, or an address of another one.
    pub url: String,
}

impl Offer {
    fn check(&self) -> Result<(), MessageError> {
        check::bytes("statement", self.statement.0.len(), STATEMENT_BYTES, STATEMENT_BYTES)?;
        check::bytes("signatures", self.signatures.0.len(), 1, SIGNATURES_BYTES_MAX)?;
        check::word("url", &self.url, FLEET_PATH_BYTES_MAX)?;
        // Two slashes would be another host under the same scheme.
        let own = self.url.starts_with('/') && !self.url.starts_with("//");
        match own || self.url.starts_with("https://") {
            true => Ok(()),
            false => Err(MessageError::Address { got: self.url.chars().take(16).collect() }),
        }
    }
}

/// A device is asked for its update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Number of the round.
    pub round: u64,
    /// What the update must be against.
    pub artifact: Hash,
    /// Seconds until the round closes.
    pub deadline_s: u64,
    /// Most bytes of the file.
    pub bytes_max: u64,
    /// Highest rank of the update.
    pub rank_max: u32,
}

impl Invite {
    fn check(&self) -> Result<(), MessageError> {
        check::number("round", self.round, 1)?;
        check::number("deadline_s", self.deadline_s, 0)?;
        check::within("bytes_max", self.bytes_max, 1, FLEET_ADAPTER_BYTES_MAX)?;
        check::within("rank_max", u64::from(self.rank_max), 1, u64::from(FLEET_RANK_MAX))
    }
}

/// The answer to [`CheckIn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedIn {
    /// The server's time, ms since 1970.
    pub time: u64,
    /// Seconds until the next check-in.
    pub check_in_s: u64,
    /// Whether the device may take part.
    pub state: DeviceState,
    /// Sequences of the reports that are kept: the device may forget them.
    pub acked: Vec<u64>,
    /// Epoch of the newest trust statement; a device that has an older one asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_epoch: Option<u64>,
    /// What should be installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Offer>,
    /// What should be uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<Invite>,
}

impl Message for CheckedIn {
    fn check(&self) -> Result<(), MessageError> {
        check::number("time", self.time, 1)?;
        check_in(self.check_in_s)?;
        check::count("acked", self.acked.len(), FLEET_REPORTS_MAX)?;
        self.acked.iter().try_for_each(|sequence| check::number("acked", *sequence, 1))?;
        if let Some(epoch) = self.trust_epoch {
            check::number("trust_epoch", epoch, 1)?;
        }
        self.release.as_ref().map_or(Ok(()), Offer::check)?;
        self.invite.as_ref().map_or(Ok(()), Invite::check)
    }
}

/// The answer to an upload that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// BLAKE3 of the file.
    pub receipt: Hash,
}

impl Message for Receipt {
    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}

/// The answer to `GET /v1/trust?after=E`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustAnswer {
    /// Trust statements of later epochs, the oldest first; as many as fit one answer.
    pub trust: Vec<Signed>,
}

impl Message for TrustAnswer {
    fn check(&self) -> Result<(), MessageError> {
        check::count("trust", self.trust.len(), FLEET_TRUST_MAX)?;
        self.trust.iter().try_for_each(Signed::check)
    }
}

/// `POST /v1/key`: a device signs with another key from now on; its name stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekey {
    /// The key.
    pub new_public_key: PublicKey,
    /// Its signature of [`replacement`](crate::fleet::key::replacement).
    pub proof: Signature,
}

impl Message for Rekey {
    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}

/// The answer to [`Rekey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekeyed {
    /// Whether the device may take part.
    pub state: DeviceState,
}

impl Message for Rekeyed {
    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}
