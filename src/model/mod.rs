//! What is stored and sent: serde types without logic of their own.

pub mod event;
pub mod json;
pub mod record;
pub mod view;

/// Text from outside on one line for a person: white space and control characters folded to single spaces, at most
/// [`PREVIEW_CHARS`] characters, cut with `...`.
pub fn preview(text: &str) -> String {
    preview_chars(text.chars())
}

/// The length of a preview, in characters.
pub const PREVIEW_CHARS: usize = 160;

/// As [`preview`], reading no more of `chars` than it needs.
pub fn preview_chars(chars: impl Iterator<Item = char>) -> String {
    let mut line = String::new();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preview_folds_and_cuts() {
        assert_eq!(preview("  word0 \n\t word1  "), "word0 word1");
        assert_eq!(preview("\u{1b}[31mred\u{7}"), "[31mred");
        let exact = "x".repeat(160);
        assert_eq!(preview(&exact), exact);
        assert_eq!(preview(&"x".repeat(161)), format!("{}...", "x".repeat(157)));
        assert_eq!(preview(&format!("{}   ", "ä".repeat(160))), "ä".repeat(160));
    }
}
