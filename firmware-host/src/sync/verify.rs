//! Whether a file that came whole is a global adapter of this cohort, before the learner hears of it.
//!
//! - In: the file's bytes in pieces of any size. Out: nothing, or why it is none.
//! - The hash says that it is what was signed; this, that it can be used here.
//! - Never here: what the adapter does to the model, which the learner's gate judges.

use sapwood_protocol::fleet::id::CohortId;
use sapwood_protocol::fleet::message::Facts;
use sapwood_protocol::fleet::update::{Expected, Finite, Header, Kind, UpdateError, header_bytes};
use sapwood_protocol::limits::FLEET_RANK_MAX;

/// A file that is looked through.
pub(super) struct Check {
    facts: Facts,
    cohort: CohortId,
    file_bytes: u64,
    head: Vec<u8>,
    body: Option<Finite>,
    wrong: Option<UpdateError>,
}

impl Check {
    /// Of a file of so many bytes, for a device of this cohort.
    pub(super) fn new(facts: Facts, cohort: CohortId, file_bytes: u64) -> Self {
        Self { facts, cohort, file_bytes, head: Vec::new(), body: None, wrong: None }
    }

    /// Looks at the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.wrong.is_none()
            && let Err(error) = self.look(bytes)
        {
            self.wrong = Some(error);
        }
    }

    fn look(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        if let Some(body) = &mut self.body {
            return body.feed(bytes);
        }
        self.head.extend_from_slice(bytes);
        let Some(prefix) = self.head.first_chunk::<8>() else { return Ok(()) };
        let end = 8 + header_bytes(*prefix, self.file_bytes)?;
        if self.head.len() < end {
            return Ok(());
        }
        let header = Header::read(&self.head[8..end], self.file_bytes)?;
        self.fits(&header)?;
        let mut body = Finite::new(&header);
        body.feed(&self.head[end..])?;
        self.head = Vec::new();
        self.body = Some(body);
        Ok(())
    }

    fn fits(&self, header: &Header) -> Result<(), UpdateError> {
        let other = |key, expected: String, got: String| UpdateError::Other { key, expected, got };
        let Facts { base, first_layer, targets, .. } = self.facts;
        let shape = &header.shape;
        header.fits(&Expected {
            kind: Kind::Global,
            base,
            cohort: self.cohort,
            from: None,
            shape,
            rank_max: FLEET_RANK_MAX,
        })?;
        if (shape.first_layer, shape.targets) != (first_layer, targets) {
            let shown = |layer: u16, targets: u8| format!("layer {layer}, targets {targets}");
            let got = shown(shape.first_layer, shape.targets);
            return Err(other("modules", shown(first_layer, targets), got));
        }
        Ok(())
    }

    /// After the last byte.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub(super) fn end(self) -> Result<(), UpdateError> {
        match (self.wrong, self.body) {
            (Some(error), _) => Err(error),
            (None, Some(body)) => body.end(),
            (None, None) => Err(UpdateError::HeaderBytes { got: 0, max: self.file_bytes }),
        }
    }
}
