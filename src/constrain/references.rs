//! References of a schema that was walked: whether each comes to something that says anything.

use super::SchemaError;
use super::refused::{short, shown};
use serde_json::Value;
use std::collections::BTreeSet;

/// Refuses a reference that leads back to itself before anything of a value is said.
pub(super) fn ends(root: &Value) -> Result<(), SchemaError> {
    let mut done = BTreeSet::new();
    let parts = ["$defs", "definitions"];
    let named = parts.iter().filter_map(|part| Some((part, root.get(part)?.as_object()?)));
    let all = named.flat_map(|(part, all)| all.keys().map(move |name| format!("#/{part}/{name}")));
    for reference in std::iter::once("#".to_owned()).chain(all) {
        follow(root, &reference, &mut Vec::new(), &mut done)?;
    }
    Ok(())
}

/// Follows what `reference` says of the same value.
fn follow(
    root: &Value,
    reference: &str,
    open: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Result<(), SchemaError> {
    if done.contains(reference) {
        return Ok(());
    }
    if open.iter().any(|one| one == reference) {
        let (place, reference) = (shown(""), short(reference));
        let problem = "leads back to itself";
        return Err(SchemaError::Reference { place, reference, problem });
    }
    open.push(reference.to_owned());
    let mut at_once = vec![found(root, reference)];
    while let Some(schema) = at_once.pop() {
        for list in ["anyOf", "oneOf", "allOf"] {
            at_once.extend(schema.get(list).and_then(Value::as_array).into_iter().flatten());
        }
        if let Some(next) = schema.get("$ref").and_then(Value::as_str) {
            follow(root, next, open, done)?;
        }
    }
    open.pop();
    done.insert(reference.to_owned());
    Ok(())
}

/// The schema of a reference that was walked.
fn found<'a>(root: &'a Value, reference: &str) -> &'a Value {
    let way = reference.strip_prefix("#/").and_then(|way| way.split_once('/'));
    match way {
        Some((part, name)) => root.get(part).and_then(|all| all.get(name)).unwrap_or(&Value::Null),
        None => root,
    }
}
