//! A validator for the part of JSON Schema that Codex's schemas use. A keyword it does not know is an error, never passed
//! over.

use serde_json::{Number, Value};

use super::Protocol;

/// What is wrong with a value.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Findings {
    /// What the schema forbids: where, and why.
    pub(crate) wrong: Vec<String>,
    /// Members that the schema does not name: Codex passes over them.
    pub(crate) unknown: Vec<String>,
}

impl Protocol {
    /// Holds a value against a schema.
    pub(crate) fn check(&self, schema: &Value, value: &Value) -> Findings {
        let mut findings = Findings::default();
        self.visit(schema, value, "", &mut findings);
        findings
    }

    fn is_valid(&self, schema: &Value, value: &Value) -> bool {
        self.check(schema, value).wrong.is_empty()
    }

    /// The members that a form names.
    fn names<'a>(&'a self, schema: &'a Value) -> Vec<&'a str> {
        let schema = self.resolve(schema);
        let own = schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|members| members.keys().map(String::as_str));
        let forms = ["anyOf", "oneOf"].iter().filter_map(|keyword| schema[*keyword].as_array()).flatten();
        own.chain(forms.flat_map(|form| self.names(form))).collect()
    }

    fn visit(&self, schema: &Value, value: &Value, at: &str, found: &mut Findings) {
        let keywords = match schema {
            Value::Bool(true) => return,
            Value::Bool(false) => return found.wrong.push(format!("{at}: nothing may stand here")),
            Value::Object(keywords) => keywords,
            other => panic!("{other} is no schema"),
        };
        let mut named: Vec<&str> = Vec::new();
        for (keyword, of) in keywords {
            let problem = match keyword.as_str() {
                "$ref" => {
                    self.visit(self.resolve(schema), value, at, found);
                    // Whatever stands beside a reference in these files is an annotation, and those are gone.
                    assert_eq!(keywords.len(), 1, "{schema}");
                    continue;
                }
                "type" => wrong_type(of, value).then(|| format!("is no {of}")),
                "enum" => {
                    (!of.as_array().expect("a list").contains(value)).then(|| format!("is none of {of}"))
                }
                "const" => (of != value).then(|| format!("is not {of}")),
                "format" => wrong_format(of.as_str().expect("a name"), value).then(|| format!("is no {of}")),
                "minimum" => {
                    let below = |number: &Number| number.as_f64() < of.as_f64();
                    value.as_number().is_some_and(below).then(|| format!("is below {of}"))
                }
                "minLength" => {
                    let length = value.as_str().map(|text| text.chars().count() as u64);
                    length
                        .is_some_and(|length| Some(length) < of.as_u64())
                        .then(|| format!("is shorter than {of}"))
                }
                "required" => {
                    let missing =
                        |name: &&Value| value.is_object() && value.get(name.as_str().unwrap()).is_none();
                    let missing: Vec<_> = of.as_array().expect("a list").iter().filter(missing).collect();
                    (!missing.is_empty()).then(|| format!("lacks {missing:?}"))
                }
                "properties" => {
                    for (name, schema) in of.as_object().expect("members") {
                        named.push(name);
                        if let Some(value) = value.get(name) {
                            self.visit(schema, value, &format!("{at}/{name}"), found);
                        }
                    }
                    None
                }
                // With the properties, below.
                "additionalProperties" => None,
                "items" => {
                    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                        self.visit(of, value, &format!("{at}/{index}"), found);
                    }
                    None
                }
                "allOf" => {
                    of.as_array()
                        .expect("a list")
                        .iter()
                        .for_each(|schema| self.visit(schema, value, at, found));
                    None
                }
                "anyOf" | "oneOf" => {
                    let branches = of.as_array().expect("a list");
                    let fit: Vec<_> = branches.iter().filter(|branch| self.is_valid(branch, value)).collect();
                    match (fit.as_slice(), keyword.as_str()) {
                        ([], _) => Some(format!("fits none of the {} forms", branches.len())),
                        ([_, _, ..], "oneOf") => Some(format!("fits {} forms", fit.len())),
                        ([first, ..], _) => {
                            let own = keywords.get("properties");
                            let foreign = |path: &String| own.is_none_or(|own| own.get(&path[1..]).is_none());
                            let unknown = self.check(first, value).unknown.into_iter().filter(foreign);
                            found.unknown.extend(unknown.map(|path| format!("{at}{path}")));
                            named.extend(self.names(first));
                            None
                        }
                    }
                }
                other => panic!("the validator does not know the keyword {other}: {schema}"),
            };
            found.wrong.extend(problem.map(|problem| format!("{at} {problem}: {}", shown(value))));
        }
        let Some(members) = value
            .as_object()
            .filter(|_| keywords.contains_key("properties") || keywords.contains_key("additionalProperties"))
        else {
            return;
        };
        for (name, value) in members.iter().filter(|(name, _)| !named.contains(&name.as_str())) {
            match keywords.get("additionalProperties") {
                Some(schema) => self.visit(schema, value, &format!("{at}/{name}"), found),
                None => found.unknown.push(format!("{at}/{name}")),
            }
        }
    }
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(200).collect()
}

fn wrong_type(wanted: &Value, value: &Value) -> bool {
    let is = |name: &Value| match (name.as_str().expect("a type"), value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => true,
        ("array", Value::Array(_)) | ("object", Value::Object(_)) | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => !number.is_f64(),
        ("null" | "boolean" | "string" | "array" | "object" | "number" | "integer", _) => false,
        (other, _) => panic!("the validator does not know the type {other}"),
    };
    match wanted {
        Value::Array(names) => !names.iter().any(is),
        name => !is(name),
    }
}

fn wrong_format(name: &str, value: &Value) -> bool {
    let Value::Number(number) = value else { return false };
    let signed = |max: i64| number.as_i64().is_none_or(|number| number > max || number < -max - 1);
    let unsigned = |max: u64| number.as_u64().is_none_or(|number| number > max);
    match name {
        "double" => false,
        "int32" => signed(i32::MAX.into()),
        "int64" => signed(i64::MAX),
        "uint8" => unsigned(u8::MAX.into()),
        "uint16" => unsigned(u16::MAX.into()),
        "uint32" => unsigned(u32::MAX.into()),
        "uint" | "uint64" => unsigned(u64::MAX),
        other => panic!("the validator does not know the format {other}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_schema_forbids_is_found() {
        let protocol = Protocol::recorded();
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "format": "uint16", "minimum": 1.0},
            "b": {"oneOf": [{"type": "string", "enum": ["x"]}, {"type": "string", "minLength": 3}]},
            "c": {"type": ["array", "null"], "items": {"type": "boolean"}},
            "d": {"additionalProperties": {"type": "number"}},
            "e": {"allOf": [{"const": 7}]}, "f": true}});
        let wrong = |value: Value| protocol.check(&schema, &value).wrong.len();
        assert_eq!(wrong(json!({"a": 1, "b": "x", "c": [true], "d": {"any": 1.5}, "e": 7, "f": [{}]})), 0);
        assert_eq!(wrong(json!([])), 1);
        assert_eq!(wrong(json!({})), 1);
        for wrong_one in [
            json!({"a": 0}),
            json!({"a": 70_000}),
            json!({"a": 1.5}),
            json!({"a": "1"}),
            json!({"a": 1, "b": "y"}),
            json!({"a": 1, "c": [1]}),
            json!({"a": 1, "c": {}}),
            json!({"a": 1, "d": {"x": "y"}}),
            json!({"a": 1, "e": 8}),
        ] {
            assert!(wrong(wrong_one.clone()) > 0, "{wrong_one}");
        }
        assert_eq!(protocol.check(&schema, &json!({"a": 1, "z": 2})).unknown, ["/z"]);
    }

    #[test]
    #[should_panic(expected = "does not know the keyword patternProperties")]
    fn an_unknown_keyword_is_no_pass() {
        Protocol::recorded().check(&json!({"patternProperties": {}}), &json!({}));
    }
}
