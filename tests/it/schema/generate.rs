//! Values that a schema allows, and values that a later version might send: as JSON text, because what they try to find
//! is what does not survive a decoded value.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::Protocol;

/// Values within each other, references counted; below that only what is required is written.
const DEPTH: usize = 16;
/// Levels of nesting that a later version might send.
const DEEP: usize = 1000;

/// How a value is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Style {
    /// Every member that the schema names.
    Whole,
    /// Only what is required.
    Bare,
    /// Every object has members that no schema names, with nesting and numbers beyond what most readers take.
    Extended,
    /// Every enum has a value that no schema names.
    NewWords,
    /// Every number has digits that no machine number keeps.
    HugeNumbers,
    /// Every text has what text may have: escapes, half of a surrogate pair, quotes, line ends.
    OddTexts,
    /// Every member that may be null is.
    Nulls,
}

/// Writes values; it remembers what of the schema it has used.
pub(crate) struct Generator<'a> {
    protocol: &'a Protocol,
    /// A number from which the next comes: the same in each run.
    random: u64,
    /// The ways taken, by the schema that has them.
    taken: BTreeSet<(String, usize)>,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(protocol: &'a Protocol) -> Generator<'a> {
        Generator { protocol, random: 1, taken: BTreeSet::new() }
    }

    /// Values of a schema: of each style, and whole ones until each value of each enum and each form has been there.
    pub(crate) fn values(&mut self, schema: &Value) -> Vec<String> {
        let styles = [
            Style::Bare,
            Style::Extended,
            Style::NewWords,
            Style::HugeNumbers,
            Style::OddTexts,
            Style::Nulls,
        ];
        let mut values: Vec<String> = styles.into_iter().map(|style| self.value(schema, style)).collect();
        let mut idle = 0;
        while idle < 10 {
            let before = self.taken.len();
            let value = self.value(schema, Style::Whole);
            if self.taken.len() > before || values.len() == styles.len() {
                values.push(value);
                idle = 0;
            } else {
                idle += 1;
            }
        }
        values
    }

    fn value(&mut self, schema: &Value, style: Style) -> String {
        let mut out = String::new();
        self.write(&mut out, schema, style, 0);
        out
    }

    fn write(&mut self, out: &mut String, schema: &Value, style: Style, depth: usize) {
        if schema.get("$ref").is_some() {
            return self.write(out, self.protocol.resolve(schema), style, depth + 1);
        }
        let Some(keywords) = schema.as_object().filter(|keywords| !keywords.is_empty()) else {
            return out.push_str(r#"{"anything":[1,"two",null,{"at":"all"}]}"#);
        };
        if let Some(words) = keywords.get("enum") {
            let words = words.as_array().expect("a list");
            let word = &words[self.choose(schema, words.len())];
            return match word {
                Value::String(_) if style == Style::NewWords => out.push_str(r#""aWordOfTomorrow""#),
                word => write!(out, "{word}").expect("a String takes it"),
            };
        }
        for keyword in ["oneOf", "anyOf"] {
            if let Some(branches) = keywords.get(keyword).and_then(Value::as_array) {
                let chosen = self.branch(schema, branches, style, depth);
                if keywords.contains_key("properties") {
                    // The members beside the forms belong to all of them.
                    let mut parts = vec![schema, chosen];
                    while let Some(branches) = parts.last().and_then(|last| last["anyOf"].as_array()) {
                        let last = parts[parts.len() - 1];
                        parts.push(self.branch(last, branches, style, depth));
                    }
                    return self.write_object(out, &parts, style, depth);
                }
                return self.write(out, chosen, style, depth);
            }
        }
        if let Some([only]) = keywords.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            return self.write(out, only, style, depth);
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => {
                let null = kinds.iter().position(|kind| kind == "null");
                let at = match null {
                    Some(null) if style == Style::Nulls || depth > DEPTH => null,
                    Some(null) if style != Style::Whole => usize::from(null == 0),
                    _ => self.choose(schema, kinds.len()),
                };
                kinds[at].as_str().expect("a type")
            }
            Value::String(kind) => kind,
            _ if keywords.contains_key("properties") => "object",
            other => panic!("the generator does not know the type {other}: {schema}"),
        };
        match kind {
            "null" => out.push_str("null"),
            "boolean" => out.push_str(["true", "false"][self.choose(schema, 2)]),
            "string" if style == Style::OddTexts => out.push_str(ODD_TEXT),
            "string" => out.push_str(r#""some text""#),
            "integer" | "number" if style == Style::HugeNumbers => {
                out.push_str(HUGE[self.choose(schema, HUGE.len()) % HUGE.len()]);
            }
            "integer" => out.push_str("42"),
            "number" => out.push_str("4.25"),
            "array" => {
                let items = keywords.get("items").unwrap_or(&Value::Bool(true));
                let count = match depth {
                    _ if style == Style::Bare => 0,
                    ..4 => 2,
                    4..DEPTH => 1,
                    _ => 0,
                };
                out.push('[');
                for at in 0..count {
                    out.push_str(if at > 0 { "," } else { "" });
                    self.write(out, items, style, depth + 1);
                }
                out.push(']');
            }
            "object" => self.write_object(out, &[schema], style, depth),
            other => panic!("the generator does not know the type {other}"),
        }
    }

    fn branch<'s>(&mut self, schema: &Value, branches: &'s [Value], style: Style, depth: usize) -> &'s Value {
        let null = branches.iter().find(|branch| branch["type"] == "null");
        match null {
            Some(null) if style == Style::Nulls || depth > DEPTH => null,
            Some(_) if style != Style::Whole => {
                branches.iter().find(|branch| branch["type"] != "null").unwrap_or(&branches[0])
            }
            _ => {
                let fresh = |branch: &Value| !self.unused(branch).is_empty();
                let towards = (style == Style::Whole).then(|| branches.iter().position(fresh)).flatten();
                match towards {
                    Some(way) => self.taken.insert((schema.to_string(), way)),
                    None => false,
                };
                &branches[towards.unwrap_or_else(|| self.choose(schema, branches.len()))]
            }
        }
    }

    /// One object of all these schemas.
    fn write_object(&mut self, out: &mut String, schemas: &[&Value], style: Style, depth: usize) {
        let bare = style == Style::Bare || depth > DEPTH;
        let mut separator = "";
        out.push('{');
        for schema in schemas.iter().map(|schema| self.protocol.resolve(schema)) {
            let required = |name: &str| {
                schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
            };
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if bare && !required(name) {
                    continue;
                }
                write!(out, "{separator}{}:", json!(name)).expect("a String takes it");
                separator = ",";
                self.write(out, property, style, depth + 1);
            }
            if let (Some(values), false) = (schema["additionalProperties"].as_object(), bare) {
                write!(out, "{separator}\"a key\":").expect("a String takes it");
                separator = ",";
                self.write(out, &Value::Object(values.clone()), style, depth + 1);
            }
        }
        if style == Style::Extended {
            out.push_str(separator);
            write_members_of_tomorrow(out, depth);
        }
        out.push('}');
    }

    /// One of `count` ways: one that was not taken yet, else any.
    fn choose(&mut self, schema: &Value, count: usize) -> usize {
        let place = schema.to_string();
        let fresh = (0..count).find(|way| !self.taken.contains(&(place.clone(), *way)));
        let way = fresh.unwrap_or_else(|| {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.random >> 33) as usize % count
        });
        self.taken.insert((place, way));
        way
    }

    /// Values of enums that may occur in that schema and were in no value.
    pub(crate) fn unused(&self, schema: &Value) -> Vec<String> {
        let (mut seen, mut unused) = (BTreeSet::new(), Vec::new());
        self.look(schema, &mut seen, &mut unused);
        unused
    }

    fn look(&self, schema: &Value, seen: &mut BTreeSet<String>, unused: &mut Vec<String>) {
        if let Some(path) = schema["$ref"].as_str()
            && seen.insert(path.to_owned())
        {
            self.look(self.protocol.resolve(schema), seen, unused);
        }
        let place = schema.to_string();
        let ways =
            ["enum", "oneOf", "anyOf"].iter().filter_map(|keyword| schema[*keyword].as_array()).flatten();
        for (way, what) in ways.enumerate() {
            if !self.taken.contains(&(place.clone(), way)) {
                unused.push(what.to_string());
            }
        }
        let lists =
            ["oneOf", "anyOf", "allOf"].iter().filter_map(|keyword| schema[*keyword].as_array()).flatten();
        let members = schema["properties"].as_object().into_iter().flat_map(|members| members.values());
        let others = ["items", "additionalProperties"].iter().filter_map(|keyword| schema.get(*keyword));
        for below in lists.chain(members).chain(others) {
            self.look(below, seen, unused);
        }
    }
}

/// What no machine number keeps.
const HUGE: &[&str] = &[
    "123456789012345678901234567890",
    "-98765432109876543210987654321",
    "1e400",
    "-1.5E+9999",
    "0.1000000000000000055511151231257827021181583404541015625",
    "1e-999",
    "9007199254740993",
    "18446744073709551616",
    "-0",
    "4.0",
];

/// Text as text may be; nobody may tidy it up on the way.
const ODD_TEXT: &str =
    r#""a\ud800b \u0000\u001b[31m \ud83d\ude00 😀 \"quoted\" \\ \/ line\nline\r\n\u2028 \u00e4 ä \u007f""#;

fn write_members_of_tomorrow(out: &mut String, depth: usize) {
    out.push_str(r#""newMember":{"with":["things",1.0,1e400]},"":"no name","n\u0061me \"of\" \ud800":null"#);
    // Once is enough: it is as deep in whatever it stands.
    if depth <= 1 {
        let (open, close) = (r#"[{"a":"#.repeat(DEEP / 2), "}]".repeat(DEEP / 2));
        write!(out, r#","deep":{open}0{close}"#).expect("a String takes it");
    }
}
