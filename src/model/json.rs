//! JSON text as text: what must not go through a decoded value, because numbers and order are to stay as they came.

use std::borrow::Cow;

use serde::Deserialize;

use super::eight;

/// A JSON string that is borrowed where it holds no escape. In an `Option`, a plain [`Cow`] is copied each time: serde's
/// `borrow` does not reach through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Levels that are indented. Were it all of them, a value nested ten thousand levels deep, which a line of 20 kB can hold,
/// would fill 200 MB.
const INDENTED: usize = 100;

/// Indents compact or any other valid JSON by two spaces, as `JSON.stringify(value, null, 2)` does; what is nested deeper
/// than a hundred levels stays on one line. Only white space between tokens changes: a number such as `1e400` or a
/// 30-digit integer stays what it was.
pub fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + json.len() / 2);
    let mut depth = 0_usize;
    let mut at = 0;
    // Where that begins which is not in `out` yet.
    let mut rest = 0;
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(json, at),
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.extend_from_slice(&json[rest..at - 1]);
                rest = at;
            }
            b'{' | b'[' => {
                out.extend_from_slice(&json[rest..at]);
                at += json[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                rest = at;
                if matches!(json.get(at), Some(b'}' | b']')) {
                    at += 1;
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                out.extend_from_slice(&json[rest..at - 1]);
                rest = at - 1;
                // Where its inside has no lines of its own, it has none either.
                if depth <= INDENTED {
                    break_line(&mut out, depth.saturating_sub(1));
                }
                depth = depth.saturating_sub(1);
            }
            b',' => {
                out.extend_from_slice(&json[rest..at]);
                rest = at;
                break_line(&mut out, depth);
            }
            b':' => {
                out.extend_from_slice(&json[rest..at]);
                rest = at;
                out.push(b' ');
            }
            _ => {}
        }
    }
    out.extend_from_slice(&json[rest..]);
    out
}

/// Valid JSON without the white space between its tokens: the opposite of [`pretty`].
pub fn compact(json: &str) -> String {
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(json.len());
    let (mut at, mut rest) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.push_str(&json[rest..at - 1]);
                rest = at;
            }
            _ => {}
        }
    }
    out.push_str(&json[rest..]);
    out
}

/// The line's end and the deepest indentation; the others are its beginnings.
const LINE: [u8; 1 + 2 * INDENTED] = {
    let mut line = [b' '; 1 + 2 * INDENTED];
    line[0] = b'\n';
    line
};

fn break_line(out: &mut Vec<u8>, depth: usize) {
    // Deeper than that there are no lines.
    out.extend_from_slice(LINE.get(..=2 * depth).unwrap_or_default());
}

/// The index after the closing quote of the string whose first character is at `from`. Most strings are too short for
/// the call of [`memchr::memchr2`] to pay, so eight bytes are looked at in one go.
fn string_end(json: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        at = eight::skip(json, at, eight::quote_or_backslash);
        match json.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return json.len(),
        }
    }
}

/// What stands between the quotes of a JSON string's raw text.
pub fn inside(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw)
}

/// The characters of a JSON string, given as its raw text with the quotes, decoded one at a time: a preview of a
/// 20 MB delta reads its first few hundred bytes. An escape that is wrong yields U+FFFD.
pub fn string_chars(raw: &str) -> impl Iterator<Item = char> + '_ {
    let mut chars = inside(raw).chars();
    std::iter::from_fn(move || {
        let char = chars.next()?;
        if char != '\\' {
            return Some(char);
        }
        Some(match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => unicode_escape(&mut chars),
            other => other,
        })
    })
}

fn unicode_escape(chars: &mut std::str::Chars<'_>) -> char {
    let Some(first) = hex4(chars) else { return char::REPLACEMENT_CHARACTER };
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    let mut ahead = chars.clone();
    if ahead.next() == Some('\\')
        && ahead.next() == Some('u')
        && let Some(second) = hex4(&mut ahead)
        && (0xDC00..0xE000).contains(&second)
    {
        *chars = ahead;
        let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    char::REPLACEMENT_CHARACTER
}

fn hex4(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |code, _| Some(code * 16 + chars.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_is_what_serde_json_prints() {
        let samples = [
            r#"{}"#,
            r#"[]"#,
            r#"[[],{},[1]]"#,
            r#"{"a":{"b":[1,2,{"c":null}],"d":"x\"y\\"},"e":"{[,:]}"}"#,
            " { \"a\" : [ ] , \"b\" : { } } ",
            r#"["1234567\"","12345678\"","123456\\","1234567\\","1234567\\\"12345","ä€😀 ¢ !#[]","12345678"]"#,
        ];
        for sample in samples {
            let value: serde_json::Value = serde_json::from_str(sample).unwrap();
            let expected = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(String::from_utf8(pretty(sample.as_bytes())).unwrap(), expected);
            assert_eq!(compact(&expected), serde_json::to_string(&value).unwrap());
        }
    }

    #[test]
    fn pretty_leaves_numbers_alone_and_survives_nonsense() {
        assert_eq!(
            pretty(b"[1e400,123456789012345678901234567890]"),
            b"[\n  1e400,\n  123456789012345678901234567890\n]"
        );
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let shown = String::from_utf8(pretty(deep.as_bytes())).unwrap();
        assert!(shown.len() < 50_000, "{}", shown.len());
        assert_eq!(shown.lines().count(), 2 * INDENTED + 1);
        assert_eq!(shown.split_whitespace().collect::<String>(), deep);
        for nonsense in ["\"open", "{\"a\":", "}}]]", "\"\\", "{"] {
            pretty(nonsense.as_bytes());
        }
    }

    #[test]
    fn string_chars_decodes_as_serde_does() {
        for text in ["", "plain", "q\"b\\s/\n\r\t\u{8}\u{c}\u{1}", "ä€😀", "\u{ffff}"] {
            let raw = serde_json::to_string(text).unwrap();
            assert_eq!(string_chars(&raw).collect::<String>(), text);
        }
        assert_eq!(
            string_chars(r#""\ud83d\ude00 \u00e4 \ud83d x \uZZ""#).collect::<String>(),
            "😀 ä \u{fffd} x \u{fffd}Z"
        );
    }
}
