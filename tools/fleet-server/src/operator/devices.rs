//! Orders about devices: links that let them in, and a word about one.

use super::{OrderError, WHO};
use crate::devices::{self, Token};
use crate::home::Home;
use crate::ports::{Chance, draw};
use crate::store::{Book, Columns};
use sapwood_protocol::fleet::id::{self as names, DeviceId, Hash};
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::DeviceState;

/// What a link lets devices do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Where they reach the server.
    pub host: String,
    /// Their label.
    pub label: String,
    /// How many.
    pub uses: u64,
    /// Until when, ms since 1970.
    pub expires_ms: u64,
    /// Whether they are accepted at once.
    pub auto: bool,
    /// Whether they take candidates.
    pub lab: bool,
    /// Whether they know the server by its key.
    pub pinned: bool,
}

/// Makes a token, and the link that carries it.
///
/// # Errors
/// [`OrderError`].
pub fn invite(
    home: &Home,
    invitation: &Invitation,
    chance: &dyn Chance,
    now_ms: u64,
) -> Result<Link, OrderError> {
    // A label that no cohort can have is found here, not by the first device.
    names::label(&invitation.label)?;
    let rows = home.book.read("select statement from trust where epoch = 1", &[])?;
    let first = Columns::of(rows.into_iter().next().unwrap_or_default()).bytes()?;
    let text = Hash(draw(chance)?).to_string();
    let link = Link {
        host: invitation.host.clone(),
        fleet: home.fleet,
        token: Some(text.clone()),
        trust: Hash::of(&first),
        pin: invitation.pinned.then(|| home.pin()).transpose()?,
    };
    // Read again as a device reads it: an address with a slash is found here.
    let link: Link = link.to_string().parse()?;
    let token = Token {
        hash: Hash::of(text.as_bytes()),
        label: invitation.label.clone(),
        uses: invitation.uses,
        auto: invitation.auto,
        lab: invitation.lab,
        expires_ms: invitation.expires_ms,
    };
    let detail = format!("label {:?}, {} uses", token.label, token.uses);
    let audit = devices::audit(now_ms, WHO, "enroll-link", detail);
    home.book.write(vec![devices::keep_token(&token), audit])?;
    Ok(link)
}

/// A word about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It takes part.
    Accept {
        /// Its label, where no token gave one.
        label: Option<String>,
        /// Whether it takes candidates.
        lab: bool,
    },
    /// It is refused.
    Reject,
    /// It is stopped for now.
    Suspend,
    /// It goes on.
    Resume,
    /// It is taken out for good.
    Retire,
}

impl Word {
    /// What it is called, from which states it leads, and where to.
    fn arrow(&self) -> (&'static str, &'static [DeviceState], &'static str, DeviceState) {
        use DeviceState as S;
        match self {
            Self::Accept { .. } => ("accept", &[S::Pending], "pending", S::Accepted),
            Self::Reject => ("reject", &[S::Pending], "pending", S::Rejected),
            Self::Suspend => ("suspend", &[S::Accepted], "accepted", S::Suspended),
            Self::Resume => ("resume", &[S::Suspended], "suspended", S::Accepted),
            Self::Retire => {
                ("retire", &[S::Accepted, S::Suspended], "accepted or suspended", S::Retired)
            }
        }
    }
}

/// Says a word about a device; its state then. A word that holds already changes nothing.
///
/// # Errors
/// [`OrderError`].
pub fn say(
    book: &dyn Book,
    id: DeviceId,
    word: &Word,
    now_ms: u64,
) -> Result<DeviceState, OrderError> {
    let unknown = || OrderError::Unknown { what: "device", name: id.to_string() };
    let device = devices::find(book, id)?.ok_or_else(unknown)?;
    let (what, from, expected, to) = word.arrow();
    if device.state == to {
        return Ok(to);
    }
    if !from.contains(&device.state) {
        let got = format!("{:?}", device.state).to_lowercase();
        return Err(OrderError::State { what: "device", name: id.to_string(), expected, got });
    }
    let mut statements = match word {
        Word::Accept { label, lab } => {
            if let Some(wanted) = label {
                names::label(wanted)?;
            }
            let label = label.clone().or_else(|| device.label.clone());
            let label = label.ok_or(OrderError::Label { device: id })?;
            devices::accepted(&device, &label, *lab || device.lab)?.to_vec()
        }
        _ => vec![devices::moved(id, device.state, to, *word == Word::Resume)],
    };
    statements.push(devices::audit(now_ms, WHO, what, id.to_string()));
    book.write(statements)?;
    Ok(to)
}
