//! The schema of a call: one of some functions by its name, with arguments that fit its own schema.
//!
//! - In: functions and their schemas, each read by itself. Out: one schema, in which the named schemas of
//!   each stand under names of their own; it is bounded as any.

use super::{Schema, SchemaError};
use serde_json::{Map, Value, json};

/// What a call names the function by.
pub const NAME: &str = "name";

impl Schema {
    /// Whatever calls one of `functions`: an object with its name and, under `arguments`, what fits its
    /// schema, in this order and nothing else.
    ///
    /// # Errors
    /// [`SchemaError::Large`] when all of them together are too much.
    pub fn call(functions: &[(&str, &Self)], arguments: &str) -> Result<Self, SchemaError> {
        let mut named = Map::new();
        let calls: Vec<Value> = functions
            .iter()
            .enumerate()
            .map(|(at, (name, schema))| {
                let place = Place { at, named: &mut named };
                let given = place.moved(schema.value());
                json!({
                    "type": "object", "required": [NAME, arguments], "additionalProperties": false,
                    "properties": { NAME: { "const": name }, arguments: given },
                })
            })
            .collect();
        Self::read(&json!({ "anyOf": calls, "$defs": named }))
    }
}

/// Where the schema of one function goes.
struct Place<'a> {
    /// Which function.
    at: usize,
    named: &'a mut Map<String, Value>,
}

impl Place<'_> {
    /// A reference to all of a function's schema, which is put among the named ones with its own.
    fn moved(self, schema: &Value) -> Value {
        let root = format!("{}", self.at);
        let mut schema = schema.clone();
        if let Some(keywords) = schema.as_object_mut() {
            for part in ["$defs", "definitions"] {
                let all = keywords.remove(part);
                for (name, mut one) in all.and_then(own).unwrap_or_default() {
                    rename(&mut one, self.at);
                    self.named.insert(format!("{}:{part}:{name}", self.at), one);
                }
            }
        }
        rename(&mut schema, self.at);
        self.named.insert(root.clone(), schema);
        json!({ "$ref": format!("#/$defs/{root}") })
    }
}

fn own(value: Value) -> Option<Map<String, Value>> {
    if let Value::Object(all) = value { Some(all) } else { None }
}

/// Has the references of a schema that was read lead to where its named schemas are now.
fn rename(schema: &mut Value, at: usize) {
    let Some(keywords) = schema.as_object_mut() else { return };
    for (keyword, value) in keywords {
        match (keyword.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                *reference = match reference.strip_prefix("#/").and_then(|way| way.split_once('/'))
                {
                    Some((part, name)) => format!("#/$defs/{at}:{part}:{name}"),
                    None => format!("#/$defs/{at}"),
                };
            }
            // Values, whatever they look like.
            ("const" | "enum", _) => {}
            ("properties" | "patternProperties", Value::Object(all)) => {
                all.values_mut().for_each(|one| rename(one, at));
            }
            (_, Value::Array(all)) => all.iter_mut().for_each(|one| rename(one, at)),
            (_, value) => rename(value, at),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    /// Oracle: the crate jsonschema, by what it takes and refuses.
    #[test]
    fn functions_keep_their_own_named_schemas_and_their_roots() {
        let tree = json!({
            "type": "object", "required": ["of"], "additionalProperties": false,
            "properties": {"of": {"$ref": "#/$defs/leaf"}, "next": {"$ref": "#"},
                "$ref": {"const": {"$ref": "#"}}},
            "$defs": {"leaf": {"type": "integer"}},
        });
        let other = json!({
            "type": "object", "required": ["of"], "additionalProperties": false,
            "properties": {"of": {"$ref": "#/definitions/leaf"}},
            "definitions": {"leaf": {"type": "string"}},
        });
        let [tree, other] = [tree, other].map(|one| Schema::read(&one).unwrap());
        let call = Schema::call(&[("a", &tree), ("b", &other)], "arguments").unwrap();
        let judge = jsonschema::validator_for(call.value()).unwrap();
        for (fits, value) in [
            (true, json!({"name": "a", "arguments": {"of": 1, "next": {"of": 2}}})),
            (true, json!({"name": "b", "arguments": {"of": "x"}})),
            (true, json!({"name": "a", "arguments": {"of": 1, "$ref": {"$ref": "#"}}})),
            (false, json!({"name": "a", "arguments": {"of": "x"}})),
            (false, json!({"name": "a", "arguments": {"of": 1, "next": {}}})),
            (false, json!({"name": "b", "arguments": {"of": 1}})),
            (false, json!({"name": "c", "arguments": {"of": 1}})),
            (false, json!({"name": "a"})),
            (false, json!({"name": "b", "arguments": {"of": "x"}, "more": 1})),
        ] {
            assert_eq!(judge.is_valid(&value), fits, "{value}");
        }
    }

    #[test]
    fn all_functions_together_are_bounded() {
        let wide: Map<String, Value> =
            (0..300).map(|at| (format!("p{at}"), json!({"type": "null"}))).collect();
        let wide = Schema::read(&json!({"type": "object", "properties": wide})).unwrap();
        let functions = vec![("f", &wide); 10];
        assert!(Schema::call(&functions[..3], "arguments").is_ok());
        let refused = Schema::call(&functions, "arguments").unwrap_err().to_string();
        assert!(refused.contains("too many"), "{refused}");
    }
}
