//! Schemas that are taken, refused by name, or too much.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use super::*;

fn refused(schema: &Value) -> String {
    Schema::read(schema).unwrap_err().to_string()
}

#[test]
fn what_only_describes_is_left_out_and_the_rest_stays() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Reading",
        "type": "object", "required": ["at"], "additionalProperties": false,
        "properties": {
            "at": {"type": "string", "format": "date-time", "description": "when"},
            "title": {"$ref": "#/$defs/name"},
        },
        "$defs": {"name": {"type": ["string", "null"], "maxLength": 20, "default": null}},
    });
    let expected = json!({
        "type": "object", "required": ["at"], "additionalProperties": false,
        "properties": {
            "at": {"type": "string", "format": "date-time"}, "title": {"$ref": "#/$defs/name"},
        },
        "$defs": {"name": {"type": ["string", "null"], "maxLength": 20}},
    });
    assert_eq!(*Schema::read(&schema).unwrap().value(), expected);
}

#[test]
fn what_is_left_open_is_any_json_with_numbers_that_programs_read() {
    let read = |schema: Value| Schema::read(&schema).unwrap().value().clone();
    let number = read(json!({"type": "integer", "minimum": 3}));
    assert_eq!(number, json!({"type": "integer", "minimum": 3, "maximum": 1e15}));
    let open = read(json!({"type": "object"}));
    assert_eq!(open, *Schema::object().value());
    for any in [json!({}), json!(true), json!({"title": "a"})] {
        assert_eq!(read(json!({"type": "array", "items": any}))["items"], to_any());
    }
    assert_eq!(
        read(json!({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}))["$ref"],
        "#/$defs/a"
    );
    for schema in [json!({}), json!({"items": true}), json!({"minimum": 1}), open] {
        let once = Schema::read(&schema).unwrap();
        assert_eq!(Schema::read(once.value()).unwrap(), once);
    }
}

#[test]
fn a_keyword_that_cannot_be_held_to_is_refused_with_its_place() {
    for keyword in [
        "not",
        "if",
        "uniqueItems",
        "contains",
        "propertyNames",
        "dependentRequired",
        "unevaluatedProperties",
        "minProperties",
        "$dynamicRef",
        "$anchor",
        "x-guidance",
        "additionalItems",
        "nullable",
        "invented",
    ] {
        let said = refused(&json!({"properties": {"a": {keyword: true}}}));
        let expected = format!("/properties/a: the keyword `{keyword}` is not supported");
        assert!(said.starts_with(&expected), "{said}");
    }
    assert!(refused(&json!({"items": [{}]})).contains("/items"));
}

#[test]
fn a_value_that_its_keyword_does_not_have_is_refused_with_its_place() {
    for (schema, place) in [
        (json!(7), "the schema"),
        (json!({"type": "text"}), "/type"),
        (json!({"type": []}), "/type"),
        (json!({"enum": []}), "/enum"),
        (json!({"enum": [1e300]}), "/enum"),
        (json!({"minLength": -1}), "/minLength"),
        (json!({"maxLength": 10_001}), "/maxLength"),
        (json!({"minItems": 1_001}), "/minItems"),
        (json!({"minimum": 1e16}), "/minimum"),
        (json!({"exclusiveMinimum": true}), "/exclusiveMinimum"),
        (json!({"multipleOf": 0}), "/multipleOf"),
        (json!({"pattern": "a".repeat(257)}), "/pattern"),
        (json!({"format": "iri"}), "/format"),
        (json!({"required": "a"}), "/required"),
        (json!({"anyOf": []}), "/anyOf"),
        (json!({"properties": []}), "/properties"),
        (json!({"$schema": "http://json-schema.org/draft-04/schema#"}), "/$schema"),
    ] {
        assert!(refused(&schema).starts_with(&format!("{place}: expected")), "{schema}");
    }
}

#[test]
fn a_reference_leads_to_a_schema_of_the_same_and_not_back_to_itself() {
    let tree = json!({"$defs": {"tree": {"type": "object", "properties": {
        "left": {"$ref": "#/$defs/tree"}}}}, "$ref": "#/$defs/tree"});
    assert!(Schema::read(&tree).is_ok());
    for (reference, problem) in [
        ("#/$defs/b", "leads nowhere"),
        ("#/properties/a", "is none to"),
        ("other.json", "is none to"),
        ("#/$defs/a~1b", "is none to"),
        ("#/$defs/a/items", "is none to"),
        ("#/$defs/a", "leads back to itself"),
        ("#", "leads back to itself"),
    ] {
        let a = json!({"anyOf": [{"type": "null"}, {"$ref": reference}]});
        let said = refused(&json!({"$defs": {"a": a}, "$ref": "#/$defs/a"}));
        assert!(said.contains(problem), "{reference}: {said}");
    }
}

#[test]
fn a_schema_from_an_enemy_is_refused_and_not_walked_to_its_end() {
    let nested = (0..40).fold(json!({}), |inner, _| json!({"items": inner}));
    let wide = json!({"anyOf": vec![json!({}); 3_000]});
    let values = json!({"enum": (0..3_000).collect::<Vec<_>>()});
    let long = json!({"const": "a".repeat(70_000)});
    let patterns = json!({"anyOf": vec![json!({"pattern": "a*"}); 65]});
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    for schema in [nested, wide, values, long, patterns, json!({"const": deep})] {
        assert!(refused(&schema).contains("too many"));
    }
    let name = "é".repeat(5_000);
    assert!(refused(&json!({"properties": {name: {"not": {}}}})).len() < 600);
}
