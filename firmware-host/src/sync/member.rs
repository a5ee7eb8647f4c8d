//! A device that was told of a fleet: its book, its key, whom it trusts, how it reaches the server.
//!
//! - In: the fleet's folder. Out: all that a call needs, and the book, which changes on the disk first.
//! - Invariant: memory never says more than the disk: what cannot be kept has not happened.

use super::book::Book;
use super::error::{ExchangeError, StoreError};
use super::exchange::{Exchange, Network, Signer};
use super::learner::View;
use super::store::Store;
use super::time::ServerTime;
use super::trouble::Trouble;
use sapwood::state::Series;
use sapwood_protocol::fleet::id::CohortId;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{Facts, Signed};
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::Statement;
use sapwood_protocol::fleet::trust::Trust;
use std::path::Path;
use std::sync::Arc;

/// A device in its fleet.
pub(super) struct Member {
    pub(super) store: Store,
    book: Book,
    pub(super) key: SecretKey,
    trust: Option<Trust>,
    pub(super) exchange: Exchange,
    /// The next number of a check-in; those below the book's are reserved.
    counter: u64,
}

impl Member {
    /// As the folder has it; none before the device was told of a fleet.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) fn open(
        store: &Store,
        ca_file: Option<&Path>,
        time: &Arc<ServerTime>,
        network: &Network,
    ) -> Result<Option<Self>, Trouble> {
        let Some(book) = store.book()? else {
            // A leave that was cut ends here.
            store.forget()?;
            return Ok(None);
        };
        let pending = book.pending.as_ref().and_then(|pending| statement(&pending.signed));
        store
            .sweep(pending.map(|one| one.artifact), book.sent.as_ref().map(|sent| sent.hash))
            .map_err(StoreError::from)?;
        let counter = book.counter;
        Ok(Some(Self::with(store, (book, counter), ca_file, time, network)?))
    }

    /// With a book that need not be on the disk, and the next number of a check-in. What was left in the
    /// folder stays there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) fn with(
        store: &Store,
        (book, counter): (Book, u64),
        ca_file: Option<&Path>,
        time: &Arc<ServerTime>,
        network: &Network,
    ) -> Result<Self, Trouble> {
        let missing = StoreError::Damaged { file: "key", problem: "it is not there" };
        let key = store.key()?.ok_or(missing)?;
        let host = (book.host.as_str(), book.fleet);
        let exchange = Exchange::new(host, book.pin, ca_file, time.clone(), network.clone())?;
        let trust = book.trust.as_ref().map(|signed| held(&book, signed)).transpose()?;
        Ok(Self { store: store.clone(), book, key, trust, exchange, counter })
    }

    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    pub(super) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    pub(super) fn signer(&self) -> Signer<'_> {
        Signer { key: &self.key, device: self.book.device }
    }

    /// Changes the book: on the disk, then here; nothing is written where nothing changes.
    ///
    /// # Errors
    /// [`StoreError`]: it stays as it was.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Book)) -> Result<(), StoreError> {
        let mut book = self.book.clone();
        change(&mut book);
        if book != self.book {
            self.store.keep(&book)?;
            self.book = book;
        }
        Ok(())
    }

    /// A number for a check-in that no other ever had.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        if self.counter >= self.book.counter {
            self.note(Book::reserve)?;
        }
        let number = self.counter;
        self.counter += 1;
        Ok(number)
    }

    /// Trusts a statement that was verified from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn believe(&mut self, trust: Trust, signed: Signed) -> Result<(), StoreError> {
        self.note(|book| book.trust = Some(signed))?;
        self.trust = Some(trust);
        Ok(())
    }

    /// The device's cohort, once the operator's label is known.
    pub(super) fn cohort(&self, facts: &Facts) -> Option<CohortId> {
        // A label of a message is as short as a cohort's may be.
        facts.cohort(self.book.label.as_deref()?).ok()
    }

    /// The learner as this fleet may see it.
    pub(super) fn sees(&self, view: View) -> View {
        let cohort = self.cohort(&view.facts);
        let own = cohort.map(|cohort| Series { fleet: self.book.fleet.0, cohort: cohort.0 });
        view.for_fleet(|series| match series {
            Some(_) => series == own,
            None => self.book.takes_unnamed,
        })
    }

    /// The statement under way.
    pub(super) fn pending(&self) -> Option<Statement> {
        statement(&self.book.pending.as_ref()?.signed)
    }

    /// The statement under way, as long as who signed it is believed.
    pub(super) fn trusted(&self) -> Option<Statement> {
        let signed = &self.book.pending.as_ref()?.signed;
        statement(signed).filter(|_| self.believes(signed))
    }

    /// Whether the keys of the newest epoch that is known signed a statement.
    pub(super) fn believes(&self, signed: &Signed) -> bool {
        let Some((trust, statement)) = self.trust().zip(statement(signed)) else { return false };
        let signatures = Signatures::decode(&signed.signatures.0);
        // Until when they are believed was asked when it was taken.
        signatures.is_ok_and(|signatures| statement.signed(&signatures, trust, 0).is_ok())
    }

    /// The next key, which the server has, is the key from now on.
    ///
    /// # Errors
    /// [`StoreError`]: it signs all the same, and is on the disk under one name or the other.
    pub(super) fn promote(&mut self, key: SecretKey) -> Result<(), StoreError> {
        self.key = key;
        self.store.promote_key()
    }
}

/// A statement of the own book, which was verified when it was taken.
fn statement(signed: &Signed) -> Option<Statement> {
    Statement::decode(&signed.statement.0).ok()
}

/// A trust statement of the own book, whose signatures held when it was believed.
fn held(book: &Book, signed: &Signed) -> Result<Trust, StoreError> {
    let damaged = |problem| StoreError::Damaged { file: "book", problem };
    let trust = Trust::decode(&signed.statement.0);
    let trust = trust.map_err(|_| damaged("its trust statement is none"))?;
    let signatures = Signatures::decode(&signed.signatures.0);
    let signatures = signatures.map_err(|_| damaged("its trust statement has no signatures"))?;
    let own = signatures.held(&signed.statement.0, &trust.root);
    match trust.fleet == book.fleet && own >= usize::from(trust.root_threshold) {
        true => Ok(trust),
        false => Err(damaged("its trust statement is another fleet's")),
    }
}

impl From<ExchangeError> for Trouble {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange(error)
    }
}
