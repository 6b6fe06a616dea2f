//! Answers as values, also those that serde_json has no value for.

use serde_json::Value;

/// Levels that [`value`] goes down; serde_json gives up at 128.
const DECODED: usize = 100;

/// The value of a text for a person, even if serde_json has none for it: what is nested deeper than a hundred levels is
/// `…` then, and a number beyond every `f64` a text.
///
/// # Errors
/// What is wrong with the text.
pub fn value(json: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(json).or_else(|_| serde_json::from_slice(&decodable(json)))
}

fn decodable(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let (from, before) = (at, depth);
        let mut quote: &[u8] = b"";
        at += 1;
        match byte {
            b'"' => at += string_length(&json[at..]),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                at += json[at..].iter().take_while(is_part).count();
                let number =
                    std::str::from_utf8(&json[from..at]).ok().and_then(|text| text.parse::<f64>().ok());
                if number.is_some_and(f64::is_infinite) {
                    quote = b"\"";
                }
            }
            _ => {}
        }
        if before.max(depth) <= DECODED {
            for piece in [quote, &json[from..at], quote] {
                out.extend_from_slice(piece);
            }
        } else if before == DECODED {
            out.extend_from_slice("\"…\"".as_bytes());
        }
    }
    out
}

/// The length of what a string has after its first quote, with the last one.
fn string_length(rest: &[u8]) -> usize {
    let mut escaped = false;
    let end = rest.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_be_as_deep_and_as_large_as_it_likes() {
        let deep = |levels: usize, inner: &str| {
            format!("{{\"a\":{}{inner}{},\"b\":\"[\\\"{{\"}}", "[".repeat(levels), "]".repeat(levels))
        };
        for text in [deep(3, "1"), deep(DECODED + 20, "\"]\"")] {
            assert_eq!(value(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        }
        for levels in [DECODED + 100, 1_000_000] {
            assert_eq!(
                value(deep(levels, "{\"x\":\"]\"},2").as_bytes()).unwrap(),
                serde_json::from_str::<Value>(&deep(DECODED - 1, "\"…\"")).unwrap()
            );
        }
        let large = value(b"[-1e400,1e300,{\"1e999\":1E+999}]").unwrap();
        assert_eq!(large, serde_json::json!(["-1e400", 1e300, { "1e999": "1E+999" }]));
        for bad in ["", "[", "]", "{\"a\":\"", "[}"] {
            value(bad.as_bytes()).unwrap_err();
        }
        value("[".repeat(1_000_000).as_bytes()).unwrap_err();
    }
}
