//! A few things by their names, within a number: the one that was of no use for longest goes first.
//!
//! - What goes is only let go of here: whoever holds it has it whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A few things by their names.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    most: usize,
    /// The one that was used last stands last.
    held: Mutex<Vec<(String, Arc<T>)>>,
}

impl<T> Shelf<T> {
    /// None yet; at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, held: Mutex::default() }
    }

    /// How many there may be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The one of that name, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<Arc<T>> {
        let mut held = self.lock();
        let at = held.iter().position(|(other, _)| other == name)?;
        let found = held.remove(at);
        let thing = found.1.clone();
        held.push(found);
        Some(thing)
    }

    /// Keeps one; where somebody else has kept one of that name meanwhile, that is the one.
    pub(super) fn keep(&self, name: &str, thing: Arc<T>) -> Arc<T> {
        if let Some(found) = self.find(name) {
            return found;
        }
        let mut held = self.lock();
        held.push((name.to_owned(), thing.clone()));
        let over = held.len().saturating_sub(self.most);
        held.drain(..over);
        thing
    }

    /// All that are there.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.lock().iter().map(|(_, thing)| thing.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Arc<T>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_of_no_use_for_longest_goes_and_who_holds_it_has_it_still() {
        let shelf = Shelf::new(2);
        let first = shelf.keep("a", Arc::new(1));
        shelf.keep("b", Arc::new(2));
        assert_eq!(shelf.find("a").as_deref(), Some(&1));
        shelf.keep("c", Arc::new(3));
        let names = ["a", "b", "c"].map(|name| shelf.find(name).is_some());
        assert_eq!((names, *first), ([true, false, true], 1));
        assert_eq!(*shelf.keep("a", Arc::new(9)), 1, "the one that is there");
        assert_eq!(shelf.all().len(), 2);
        let none = Shelf::new(0);
        assert_eq!((*none.keep("a", Arc::new(1)), none.all().len()), (1, 0));
    }
}
