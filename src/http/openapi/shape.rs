//! What the JSON of answers looks like, as tables, and as JSON Schema (2020-12, which is what OpenAPI 3.1 takes).

use serde_json::{Map, Value, json};

use crate::ops::body::Kind;
use crate::ops::fields::Field;

/// The shape of a value.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A string.
    Text,
    /// UTC, ISO 8601 with milliseconds and `Z`.
    Time,
    /// A whole number from 0 on.
    Count,
    /// Any whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Anything.
    Any,
    /// Any object.
    Object,
    /// One of [`COMPONENTS`](super::components::COMPONENTS).
    Ref(&'static str),
    /// An array.
    List(&'static Shape),
    /// An object whose values all have this shape.
    Map(&'static Shape),
    /// That, or null.
    Or(&'static Shape),
    /// That, or no such member.
    Maybe(&'static Shape),
}

/// A member of an object: its name, its shape, what it is. It is always there, but
/// for [`Shape::Maybe`]; what is absent is null.
pub type Member = (&'static str, Shape, &'static str);

impl Shape {
    /// As JSON Schema.
    pub fn schema(self) -> Value {
        match self {
            Self::Text => json!({ "type": "string" }),
            Self::Time => json!({ "type": "string", "format": "date-time" }),
            Self::Count => json!({ "type": "integer", "minimum": 0 }),
            Self::Number => json!({ "type": "integer" }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Words(words) => json!({ "type": "string", "enum": words }),
            Self::Any => json!({}),
            Self::Object => json!({ "type": "object" }),
            Self::Ref(name) => json!({ "$ref": format!("#/components/schemas/{name}") }),
            Self::List(items) => json!({ "type": "array", "items": items.schema() }),
            Self::Map(values) => json!({ "type": "object", "additionalProperties": values.schema() }),
            Self::Maybe(shape) => shape.schema(),
            Self::Or(shape) => json!({ "anyOf": [shape.schema(), { "type": "null" }] }),
        }
    }
}

/// An object with these members; others may be added by later versions.
pub fn object(members: &[Member]) -> Value {
    let properties = members
        .iter()
        .map(|(name, shape, doc)| ((*name).to_owned(), described(shape.schema(), doc)))
        .collect();
    let properties = map(properties);
    let always = members.iter().filter(|(_, shape, _)| !matches!(shape, Shape::Maybe(_)));
    let required: Vec<&str> = always.map(|(name, ..)| *name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// In one place: what collects into a map sorts first, and each iterator's type has its own sort, 5 KB of code.
pub fn map(members: Vec<(String, Value)>) -> Map<String, Value> {
    members.into_iter().collect()
}

fn described(mut schema: Value, doc: &str) -> Value {
    if let Some(schema) = schema.as_object_mut().filter(|_| !doc.is_empty()) {
        schema.insert("description".to_owned(), doc.into());
    }
    schema
}

/// The body of a POST. Null stands for an absent field; fields that are not known are ignored.
pub fn body(tables: &[&[Field]]) -> Value {
    let fields = || tables.iter().copied().flatten();
    let properties = map(fields()
        .map(|field| (field.name.to_owned(), described(field_schema(field), field.doc)))
        .collect());
    let required: Vec<&str> = fields().filter(|field| field.required).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn field_schema(field: &Field) -> Value {
    match field.kind {
        // Blank is as good as absent.
        Kind::Text if field.required => json!({ "type": "string", "minLength": 1, "pattern": "[^\\s]" }),
        Kind::Text => json!({ "type": ["string", "null"] }),
        Kind::Flag => json!({ "type": ["boolean", "null"] }),
        Kind::Object => json!({ "type": ["object", "null"] }),
        Kind::TextOrObject => json!({ "type": ["string", "object", "null"] }),
        Kind::Number(least) => json!({ "type": ["integer", "null"], "minimum": least }),
        Kind::OneOf(words) => {
            let mut words: Vec<Value> = words().into_iter().map(Value::from).collect();
            words.push(Value::Null);
            json!({ "enum": words })
        }
        Kind::List => json!({ "type": ["array", "null"], "items": { "type": "string" } }),
        Kind::Texts | Kind::TextsOrNulls => {
            json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "null"] } })
        }
        Kind::Input => json!({ "anyOf": [
            { "type": "string", "minLength": 1, "pattern": "[^\\s]" },
            { "type": "array", "minItems": 1, "items": { "type": "object" } },
            { "type": "null" },
        ]}),
    }
}
