//! The program that has a state folder, found by the folder's lock and asked over its socket.
//!
//! - Invariant: where one has the folder and does not answer, that is an error, never "none runs".

use super::cli;
use anyhow::Context;
use firmware_host::client::{Client, ClientError};
use firmware_host::config::Config;
use firmware_host::hold::is_held;
use std::path::PathBuf;

/// The program that has the state folder.
pub(crate) struct Program {
    pub(crate) client: Client,
    state: Option<PathBuf>,
}

impl Program {
    /// The one that has the folder of a configuration, or none. Without a folder its socket is all
    /// there is to ask.
    pub(crate) fn find(config: &Config) -> anyhow::Result<Option<Self>> {
        let client = Client::new(&cli::socket(config)?);
        let state = config.state.clone();
        if let Some(path) = &state {
            let unknown = || format!("cannot tell whether a program has {}", path.display());
            if !is_held(path).with_context(unknown)? {
                return Ok(None);
            }
        }
        Ok(Some(Self { client, state }))
    }

    /// Asks it.
    pub(crate) fn ask<T>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, ClientError>,
    ) -> anyhow::Result<T> {
        question(&self.client).map_err(|error| self.told(error))
    }

    /// Why it gave no answer: a socket on which nobody is does not mean that nobody has the folder.
    pub(crate) fn told(&self, error: ClientError) -> anyhow::Error {
        match (&self.state, &error) {
            (Some(state), ClientError::Absent { path } | ClientError::Dead { path }) => {
                let (state, path) = (state.display(), path.display());
                anyhow::anyhow!(
                    "a program has the state folder {state}, but none answers at {path}: it may be \
                     starting, or listen at another `socket`; nothing was changed"
                )
            }
            _ => error.into(),
        }
    }
}
