//! Values of rows and columns of Postgres.
//!
//! - What a value is decides the type of its `$n`: the database need not guess. Nothing has no type, and
//!   takes the one that the text gives it.
//! - Numbers come back as they would from SQLite: every whole one 64 bits wide, what is so or not as 1 or 0.

use crate::store::{BookError, Row, Value};
use tokio_postgres::types::{FromSql, ToSql, Type};

/// A value on its way.
pub(super) type Parameter<'a> = &'a (dyn ToSql + Sync);

/// The type of a value's place; unknown for nothing.
pub(super) fn kind(value: &Value) -> Type {
    match value {
        Value::Null => Type::UNKNOWN,
        Value::Integer(_) => Type::INT8,
        Value::Real(_) => Type::FLOAT8,
        Value::Text(_) => Type::TEXT,
        Value::Bytes(_) => Type::BYTEA,
    }
}

/// A value for a place of this type.
pub(super) fn parameter<'a>(value: &'a Value, place: &Type) -> Parameter<'a> {
    match value {
        Value::Integer(number) => number,
        Value::Real(number) => number,
        Value::Text(text) => text,
        Value::Bytes(bytes) => bytes,
        Value::Null => match *place {
            Type::INT8 => &None::<i64>,
            Type::INT4 => &None::<i32>,
            Type::FLOAT8 => &None::<f64>,
            Type::BYTEA => &None::<&[u8]>,
            _ => &None::<&str>,
        },
    }
}

/// The values of a row.
///
/// # Errors
/// [`BookError::Field`] for a type that no table has.
pub(super) fn row(row: &tokio_postgres::Row) -> Result<Row, BookError> {
    row.columns().iter().enumerate().map(|(at, column)| value(row, at, column.type_())).collect()
}

fn value(row: &tokio_postgres::Row, at: usize, kind: &Type) -> Result<Value, BookError> {
    Ok(match *kind {
        Type::INT8 => get(row, at)?.map_or(Value::Null, Value::Integer),
        Type::INT4 => get::<i32>(row, at)?.map_or(Value::Null, |n| Value::Integer(n.into())),
        Type::BOOL => get::<bool>(row, at)?.map_or(Value::Null, Value::from),
        Type::FLOAT8 => get(row, at)?.map_or(Value::Null, Value::Real),
        Type::TEXT | Type::VARCHAR | Type::NAME => get(row, at)?.map_or(Value::Null, Value::Text),
        Type::BYTEA => get(row, at)?.map_or(Value::Null, Value::Bytes),
        _ => {
            let got = format!("a column of type {kind}");
            return Err(BookError::Field { expected: "a number, a text or bytes", got });
        }
    })
}

fn get<'a, T: FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    at: usize,
) -> Result<Option<T>, BookError> {
    row.try_get(at).map_err(|error| BookError::Field {
        expected: "a value of its column",
        got: error.to_string(),
    })
}
