//! Adapters, statements and trust of a small fleet.

use sapwood_protocol::fleet::id::{Bytes, CohortId, FleetId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{Facts, Signed};
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::{Role, Statement};
use sapwood_protocol::fleet::trust::Trust;
use serde_json::json;

/// The fleet.
pub const FLEET: FleetId = FleetId([5; 16]);
/// Its operator's label.
pub const LABEL: &str = "kiosks";
/// What its devices adapt.
pub const FACTS: Facts = Facts { base: Hash([7; 32]), first_layer: 3, targets: 1, rank: 2 };

/// The cohort of its devices.
pub fn cohort() -> CohortId {
    FACTS.cohort(LABEL).unwrap()
}

/// An adapter's file: q_proj of one layer, rank 2.
pub fn adapter(format: &str, from: Hash, generation: u64) -> Vec<u8> {
    with(format, from, generation, |_| {})
}

/// The same, with a header that was changed.
pub fn with(
    format: &str,
    from: Hash,
    generation: u64,
    change: impl FnOnce(&mut serde_json::Value),
) -> Vec<u8> {
    let name = |factor: &str| {
        format!("base_model.model.model.layers.3.self_attn.q_proj.lora_{factor}.weight")
    };
    let mut header = json!({
        "__metadata__": {
            "format": format, "base": FACTS.base.to_string(), "cohort": cohort().to_string(),
            "from": from.to_string(), "generation": generation.to_string(), "steps": "9", "tokens": "99",
        },
        name("A"): { "dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16] },
        name("B"): { "dtype": "F16", "shape": [4, 2], "data_offsets": [16, 32] },
    });
    change(&mut header);
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0x3c; 32]);
    bytes
}

/// A global adapter; another number, another file.
pub fn global(generation: u64) -> Vec<u8> {
    adapter("sapwood-global/1", Hash([0; 32]), generation)
}

/// The keys of the fleet, by epoch.
pub struct Keys {
    /// Of trust.
    pub root: [SecretKey; 3],
    /// Of releases.
    pub release: [SecretKey; 3],
    /// Of candidates.
    pub online: SecretKey,
}

impl Keys {
    /// The keys of this epoch.
    pub fn new(epoch: u8) -> Self {
        let key = |number: u8| SecretKey::from_seed(&[100 + 10 * epoch + number; 32]);
        Self { root: [0, 1, 2].map(key), release: [3, 4, 5].map(key), online: key(6) }
    }

    /// A trust statement of these keys, signed by them and by the roots before.
    pub fn trust(&self, epoch: u64, before: Option<&Self>) -> Signed {
        let public = |keys: &[SecretKey; 3]| keys.iter().map(SecretKey::public).collect();
        let trust = Trust {
            fleet: FLEET,
            epoch,
            expires_s: 4_000_000_000,
            online: self.online.public(),
            root: public(&self.root),
            root_threshold: 2,
            release: public(&self.release),
            release_threshold: 2,
        };
        let bytes = trust.encode().unwrap();
        let mut signatures = Signatures::default();
        for keys in before.iter().copied().chain([self]) {
            keys.root[..2].iter().for_each(|key| signatures.sign(key, &bytes).unwrap());
        }
        signed(bytes, &signatures)
    }

    /// A statement that offers an artifact, signed by who may.
    pub fn release(&self, sequence: u64, artifact: &[u8], role: Role) -> Signed {
        let statement = statement(sequence, artifact, role);
        let keys = match role {
            Role::Candidate => std::slice::from_ref(&self.online),
            Role::Release => &self.release[..2],
        };
        sign(&statement, keys)
    }
}

/// What offers an artifact.
pub fn statement(sequence: u64, artifact: &[u8], role: Role) -> Statement {
    Statement {
        role,
        fleet: FLEET,
        cohort: cohort(),
        sequence,
        issued_s: 1_000,
        expires_s: 3_000_000_000,
        artifact_bytes: artifact.len() as u64,
        artifact: Hash::of(artifact),
    }
}

/// A statement with these signatures.
pub fn sign<'a>(statement: &Statement, keys: impl IntoIterator<Item = &'a SecretKey>) -> Signed {
    let (bytes, mut signatures) = (statement.encode(), Signatures::default());
    keys.into_iter().for_each(|key| signatures.sign(key, &bytes).unwrap());
    signed(bytes.to_vec(), &signatures)
}

fn signed(bytes: Vec<u8>, signatures: &Signatures) -> Signed {
    Signed { statement: Bytes(bytes), signatures: Bytes(signatures.encode()) }
}
