//! What is stored and sent: serde types without logic of their own.

pub mod eight;
pub mod event;
pub mod json;
pub mod members;
pub mod record;
pub mod view;

use std::borrow::Cow;

/// Text from outside on one line for a person: white space and control characters folded to single spaces, at most
/// [`PREVIEW_CHARS`] characters, cut with `...`.
pub fn preview(text: &str) -> String {
    preview_chars(text.chars())
}

/// The length of a preview, in characters.
pub const PREVIEW_CHARS: usize = 160;

/// As [`preview`], of a JSON string given as its raw text with the quotes; of a long one no more is read than is shown.
pub fn preview_of_raw(raw: &str) -> String {
    match plain_preview(raw) {
        Some((text, end)) => [text, end].concat(),
        None => preview_chars(json::string_chars(raw)),
    }
}

/// As [`preview_of_raw`], where the preview stands in the raw text as it is, and what comes after it where it is cut. Most
/// deltas are like that.
pub fn plain_preview(raw: &str) -> Option<(&str, &'static str)> {
    let inside = json::inside(raw).trim_start_matches(' ');
    let plain = plain_prefix(inside);
    if plain == inside.len() && plain <= PREVIEW_CHARS {
        return Some((inside.trim_end_matches(' '), ""));
    }
    // Were the last one seen a space, there might be no more to show.
    let cut = plain > PREVIEW_CHARS && !inside[..plain].ends_with(' ');
    cut.then(|| (&inside[..PREVIEW_CHARS - 3], "..."))
}

/// How much of the beginning of a JSON string's inside, up to one character more than a preview has, is shown as it is.
fn plain_prefix(inside: &str) -> usize {
    let bytes = inside.as_bytes();
    let (eights, rest) = bytes.get(..=PREVIEW_CHARS).unwrap_or(bytes).as_chunks();
    let mut after_space = true;
    let mut length = 0;
    for &eight in eights {
        match eight::single_spaced_run(eight, &mut after_space) {
            8 => length += 8,
            run => return length + run,
        }
    }
    let last = eight::filled(rest, b'x');
    length + eight::single_spaced_run(last, &mut after_space).min(rest.len())
}

/// As [`preview`], reading no more of `chars` than it needs.
fn preview_chars(chars: impl Iterator<Item = char>) -> String {
    let mut line = String::with_capacity(chars.size_hint().1.unwrap_or(PREVIEW_CHARS).min(PREVIEW_CHARS) + 4);
    let mut count = 0;
    let mut gap = false;
    for char in chars {
        if char.is_whitespace() || char.is_control() {
            gap = count > 0;
            continue;
        }
        if gap {
            line.push(' ');
            count += 1;
            gap = false;
        }
        line.push(char);
        count += 1;
        if count > PREVIEW_CHARS {
            let keep = line.char_indices().nth(PREVIEW_CHARS - 3).map_or(line.len(), |(at, _)| at);
            line.truncate(keep);
            line.push_str("...");
            break;
        }
    }
    line
}

/// Text for a terminal or a log line: what would move a cursor, start a line, colour or reverse text is written as an
/// escape (`\\n`, `\\u{1b}`), everything else as it is.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_unprintable(char) { out.extend(char.escape_default()) } else { out.push(char) }
    }
    Cow::Owned(out)
}

/// JSON text for a terminal: as [`printable`], and it still stands for the same value. Of what is meant here JSON itself
/// escapes only what is below U+0020; that stands raw between tokens only, where a carriage return is as good as a blank.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let is_odd = |char| is_unprintable(char) && !matches!(char, '\n' | '\t');
    if !json.chars().any(is_odd) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for char in json.chars() {
        match char {
            '\r' => out.push(' '),
            // All of them have four digits.
            _ if is_odd(char) => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => out.push(char),
        }
    }
    Cow::Owned(out)
}

/// Control characters (C0, DEL, C1), ends of lines and paragraphs, and marks that change the direction of text (those that
/// Unicode calls Bidi_Control).
fn is_unprintable(char: char) -> bool {
    let is_mark = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2066}'..='\u{2069}');
    char.is_control() || is_mark || matches!(char, '\u{2028}'..='\u{202e}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printable_drives_a_terminal() {
        assert!(matches!(printable("plain ä 😀 \"\\"), Cow::Borrowed("plain ä 😀 \"\\")));
        assert_eq!(printable("a\r\nb\t\u{1b}[2J\u{9b}31m\u{7f}"), "a\\r\\nb\\t\\u{1b}[2J\\u{9b}31m\\u{7f}");
        assert_eq!(printable("x\u{202e}y\u{2028}z\0"), "x\\u{202e}y\\u{2028}z\\u{0}");
        let bidi_controls = ['\u{61c}', '\u{200e}', '\u{200f}'].into_iter();
        for char in bidi_controls.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(printable(&char.to_string()), char.escape_default().to_string());
        }
    }

    #[test]
    fn printable_json_is_the_same_value() {
        let plain = "{\n  \"a\": [1e400, \"ä 😀\\u001b\"]\n}\n";
        assert!(matches!(printable_json(plain), Cow::Borrowed(text) if text == plain));
        let hostile = "{\"a\u{9b}31m\":\r\n\t\"\u{7f}\u{80}\u{9f}\u{61c}\u{202e}\u{2028} \u{a0}\"}";
        let shown = printable_json(hostile);
        let expected = "{\"a\\u009b31m\": \n\t\"\\u007f\\u0080\\u009f\\u061c\\u202e\\u2028 \u{a0}\"}";
        assert_eq!(shown, expected);
        let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(value(&shown), value(hostile));
    }

    #[test]
    fn preview_folds_and_cuts() {
        assert_eq!(preview("  word0 \n\t word1  "), "word0 word1");
        assert_eq!(preview("\u{1b}[31mred\u{7}"), "[31mred");
        let exact = "x".repeat(160);
        assert_eq!(preview(&exact), exact);
        assert_eq!(preview(&"x".repeat(161)), format!("{}...", "x".repeat(157)));
        assert_eq!(preview(&format!("{}   ", "ä".repeat(160))), "ä".repeat(160));
    }

    #[test]
    fn a_preview_of_raw_text_is_that_of_what_it_stands_for() {
        let long = |end: &str| ["x y".repeat(53), end.to_owned()].concat();
        let texts =
            ["", " ", "a", "  a b ", "a  b", "a\tb", "\"q\" \\ /", "ä ö", "a\u{7f}b", "\u{1b}[0m", "😀"];
        let ends = ["", "z", "zz", " ", "z ", " z", "  z", "z  z", "\n", "z\n", "\"", "zä", "zzzzzzzzz"];
        let texts = texts.iter().map(|text| (*text).to_owned()).chain(ends.iter().map(|end| long(end)));
        for text in texts {
            let raw = serde_json::to_string(&text).unwrap();
            assert_eq!(preview_of_raw(&raw), preview(&text), "{raw}");
        }
        assert_eq!(plain_preview("\" one word \""), Some(("one word", "")));
        assert_eq!(plain_preview(&format!("\"{}\"", "x".repeat(161))).unwrap().1, "...");
        assert_eq!(plain_preview("\"two  words\""), None);
    }
}
