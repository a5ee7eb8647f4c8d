//! Values of rows: what a column holds, and fields read from it as a stranger's.
//!
//! - In: values from the book. Out: numbers, texts and names of the length that was asked for.
//! - Integers are 64 bits with a sign, as in every SQL; what does not fit is refused, never cut.

use super::BookError;
use sapwood_protocol::fleet::id::{CohortId, DeviceId, Hash, PublicKey};

/// What one column of one row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// The columns of one row, in the order of the query.
pub type Row = Vec<Value>;

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        // Numbers of the protocol end at 2^53; a larger one is as good as the largest.
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Integer(i64::from(is))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

macro_rules! named {
    ($($name:ident),*) => {$(
        impl From<$name> for Value {
            fn from(name: $name) -> Self {
                Self::Bytes(name.0.to_vec())
            }
        }
    )*};
}

named!(CohortId, DeviceId, Hash, PublicKey);

/// The columns of a row, read from the left.
#[derive(Debug)]
pub struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    /// Before the first column.
    pub fn of(row: Row) -> Self {
        Self(row.into_iter())
    }

    fn next(&mut self) -> Value {
        self.0.next().unwrap_or(Value::Null)
    }

    /// The next so many columns, which are a row of a table that was joined; none where it has none.
    pub(crate) fn joined(&mut self, columns: usize) -> Option<Row> {
        let row: Row = self.0.by_ref().take(columns).collect();
        (row.first()? != &Value::Null).then_some(row)
    }

    /// A number of at least 0.
    ///
    /// # Errors
    /// [`BookError::Field`], as of all of these.
    pub fn number(&mut self) -> Result<u64, BookError> {
        self.maybe_number()?.ok_or_else(|| wrong("a number", &Value::Null))
    }

    /// A number of at least 0, or nothing.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn maybe_number(&mut self) -> Result<Option<u64>, BookError> {
        match self.next() {
            Value::Null => Ok(None),
            Value::Integer(number) => match u64::try_from(number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(wrong("a number of at least 0", &Value::Integer(number))),
            },
            other => Err(wrong("a number", &other)),
        }
    }

    /// A number with a fraction, or nothing.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn maybe_real(&mut self) -> Result<Option<f64>, BookError> {
        match self.next() {
            Value::Null => Ok(None),
            Value::Real(number) => Ok(Some(number)),
            Value::Integer(number) => Ok(Some(number as f64)),
            other => Err(wrong("a number", &other)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn text(&mut self) -> Result<String, BookError> {
        match self.next() {
            Value::Text(text) => Ok(text),
            other => Err(wrong("a text", &other)),
        }
    }

    /// A text, or nothing.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn maybe_text(&mut self) -> Result<Option<String>, BookError> {
        match self.next() {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => Err(wrong("a text", &other)),
        }
    }

    /// Bytes of any length.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn bytes(&mut self) -> Result<Vec<u8>, BookError> {
        match self.next() {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(wrong("bytes", &other)),
        }
    }

    /// `N` bytes.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BookError> {
        self.maybe_array()?.ok_or_else(|| wrong("bytes", &Value::Null))
    }

    /// `N` bytes, or nothing.
    ///
    /// # Errors
    /// [`BookError::Field`].
    pub fn maybe_array<const N: usize>(&mut self) -> Result<Option<[u8; N]>, BookError> {
        match self.next() {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => match <[u8; N]>::try_from(bytes.as_slice()) {
                Ok(array) => Ok(Some(array)),
                Err(_) => Err(wrong("bytes of another length", &Value::Bytes(bytes))),
            },
            other => Err(wrong("bytes", &other)),
        }
    }
}

fn wrong(expected: &'static str, got: &Value) -> BookError {
    let got = match got {
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        other => format!("{other:?}").chars().take(80).collect(),
    };
    BookError::Field { expected, got }
}
