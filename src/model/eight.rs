//! Eight bytes of JSON or other text looked at in one go: most texts here are too short for the call of a search function
//! to pay, and there are hundreds of thousands of them a second.

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// The first index from `at` on of a byte that `marks`, one of those below, marks, or from which there are fewer than eight
/// bytes.
pub fn skip(bytes: &[u8], mut at: usize, marks: impl Fn(u64) -> u64) -> usize {
    // In long texts most of the time goes into the loop itself.
    while let Some((one, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk)
        && let Some(other) = rest.first_chunk()
        && marks(u64::from_le_bytes(*one)) | marks(u64::from_le_bytes(*other)) == 0
    {
        at += 16;
    }
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        match first(marks(u64::from_le_bytes(*eight))) {
            8 => at += 8,
            step => return at + step,
        }
    }
    at
}

/// Marks the first quote or backslash among eight bytes; after it, there may be marks that mean nothing.
pub fn quote_or_backslash(bytes: u64) -> u64 {
    equal(bytes, b'"') | equal(bytes, b'\\')
}

/// Marks the first byte that does not stand in a JSON string for nothing but itself: a quote, a backslash or a control
/// character; after it, there may be marks that mean nothing.
pub fn not_of_string(bytes: u64) -> u64 {
    // With this bit turned over, the quote is a blank, and the control characters are still those below it.
    let turned = bytes ^ (ONES * u64::from(b'"' ^ b' '));
    below(turned, b' ' + 1) | equal(bytes, b'\\')
}

/// How many of the bytes, from the first on, are plain.
fn plain_run(eight: [u8; 8]) -> usize {
    first(not_plain(u64::from_le_bytes(eight)))
}

/// How many of the bytes, from the first on, are plain, as [`is_plain`] has it, and no space after another space;
/// `after_space` is about the byte before these, and afterwards about the last of them.
pub fn single_spaced_run(eight: [u8; 8], after_space: &mut bool) -> usize {
    let bytes = u64::from_le_bytes(eight);
    // Unlike `equal`, exact for each byte.
    let other = bytes ^ (ONES * u64::from(b' '));
    let spaces = !(((other & !HIGHS) + !HIGHS) | other) & HIGHS;
    let again = spaces & (spaces << 8 | u64::from(*after_space) << 7);
    *after_space = eight[7] == b' ';
    first(not_plain(bytes) | again)
}

/// Fewer than eight bytes, and others after them. Put together in a register: what is stored byte by byte and loaded at
/// once waits until every store before it is done.
pub fn filled(rest: &[u8], other: u8) -> [u8; 8] {
    let others = ONES * u64::from(other);
    rest.iter().rfold(others, |eight, &byte| eight << 8 | u64::from(byte)).to_le_bytes()
}

/// Whether all of a text is plain: ASCII that stands in a JSON string for nothing but itself, and no control character.
pub fn is_plain(text: &str) -> bool {
    let (eights, rest) = text.as_bytes().as_chunks();
    eights.iter().chain([&filled(rest, b' ')]).all(|&eight| plain_run(eight) == 8)
}

/// Marks what is not plain; after the first, there may be marks that mean nothing.
fn not_plain(bytes: u64) -> u64 {
    control(bytes) | (bytes & HIGHS) | equal(bytes, b'"') | equal(bytes, b'\\') | equal(bytes, 0x7f)
}

/// Marks the control characters in their highest bit; after the first, there may be marks that mean nothing.
fn control(bytes: u64) -> u64 {
    below(bytes, b' ')
}

/// Marks the bytes below this one, which is ASCII, in their highest bit; after the first, there may be marks that mean
/// nothing.
fn below(bytes: u64, byte: u8) -> u64 {
    bytes.wrapping_sub(ONES * u64::from(byte)) & !bytes & HIGHS
}

/// Marks the bytes that are this one in their highest bit; after the first, there may be marks that mean nothing.
fn equal(bytes: u64, byte: u8) -> u64 {
    let other = bytes ^ (ONES * u64::from(byte));
    other.wrapping_sub(ONES) & !other & HIGHS
}

/// The index of the first marked byte; 8 where there is none.
fn first(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_ends_with_the_first_mark_or_near_the_end() {
        for length in 0..50 {
            for quote in 0..=length {
                let mut text = vec![b'x'; length];
                let expected = match text.get_mut(quote) {
                    Some(byte) => {
                        *byte = b'"';
                        quote
                    }
                    None => length,
                };
                for from in 0..=quote {
                    // The last ones, fewer than eight, are left to the caller.
                    let unseen = (length - from) % 8;
                    let skipped = skip(&text, from, not_of_string);
                    assert_eq!(skipped, expected.min(length - unseen), "{length} {quote} {from}");
                }
            }
        }
    }

    #[test]
    fn a_run_ends_where_byte_by_byte_it_does() {
        let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        for byte in 0..=255_u8 {
            for at in 0..8 {
                for second in [b' ', b'!', b'"', byte.wrapping_add(1)] {
                    let mut eight = *b"~[]{}-az";
                    eight[at] = byte;
                    eight[(at + 1) % 8] = second;
                    let length = |found: Option<usize>| found.unwrap_or(8);
                    let word = u64::from_le_bytes(eight);
                    let ends = eight.iter().position(|&byte| byte == b'"' || byte == b'\\');
                    assert_eq!(first(quote_or_backslash(word)), length(ends), "{eight:?}");
                    let ends = eight.iter().position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\');
                    assert_eq!(first(not_of_string(word)), length(ends), "{eight:?}");
                    let run = length(eight.iter().position(|&byte| !plain(byte)));
                    assert_eq!(plain_run(eight), run, "{eight:?}");
                    assert_eq!(is_plain(str::from_utf8(&eight).unwrap_or("\0")), run == 8, "{eight:?}");
                    for mut after_space in [false, true] {
                        let before = |at: usize| if at == 0 { after_space } else { eight[at - 1] == b' ' };
                        let again = (0..8).position(|at| eight[at] == b' ' && before(at));
                        let expected = run.min(length(again));
                        assert_eq!(single_spaced_run(eight, &mut after_space), expected, "{eight:?}");
                        assert_eq!(after_space, eight[7] == b' ');
                    }
                }
            }
        }
        assert!(is_plain("") && is_plain("123456789") && !is_plain("12345678\"") && !is_plain("\n"));
    }
}
