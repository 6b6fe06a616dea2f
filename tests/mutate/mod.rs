//! Inputs for what reads from outside: a small corpus, changed at random, the same for the same seed.

use std::path::Path;

/// The files of `tests/corpus/NAME`, in order of their names.
///
/// # Panics
/// When there is none.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| std::fs::read(path).expect("a file")).collect()
}

/// Pieces that matter to one reader or another.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b"&",
    b"%",
    b"%00",
    b"%2",
    b"?",
    b"#",
    b"/",
    b"..",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"HTTP/",
    b"Host: ",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"token=",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud800",
    b"null",
    b"true",
    b"-",
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775807",
    b"\"seq\":",
    b"\"id\":",
    b"\"method\":",
    b"\"params\":",
    b"\"result\":",
    b"\"error\":",
    b"\x81\x80",
    b"\x88\x80",
    b"\x89\xfe",
    b"\x01\xff",
    b"\x7f\xff\xff\xff",
    b"\xf0\x9f\x98\x80",
    b"\xe2\x80\xa8",
];

/// Makes inputs.
pub(crate) struct Mutator<'a> {
    state: u64,
    corpus: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, corpus: &'a [Vec<u8>]) -> Self {
        Self { state: seed.wrapping_mul(2).wrapping_add(1), corpus }
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() % bound as u64).unwrap_or(0)
    }

    /// A place in `length` bytes, their end included, and a length from there.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = (length - start).min(1 << self.below(12));
        start..start + self.below(most + 1)
    }

    /// The next input: one of the corpus with one to six changes.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let corpus = self.corpus;
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let corpus = self.corpus;
        let at = self.below(bytes.len() + 1);
        match self.below(10) {
            0 | 1 if !bytes.is_empty() => {
                let bit = 1 << self.below(8);
                let at = self.below(bytes.len());
                bytes[at] ^= bit;
            }
            2 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] = self.random().to_le_bytes()[0];
            }
            3 | 4 => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            5 => {
                let range = self.range(bytes.len());
                bytes.drain(range);
            }
            6 => {
                let range = self.range(bytes.len());
                let copy = bytes[range].to_vec();
                let times = 1 + self.below(3);
                bytes.splice(at..at, copy.repeat(times));
            }
            7 => {
                let other = &corpus[self.below(corpus.len())];
                let range = self.range(other.len());
                let piece = other[range].to_vec();
                bytes.splice(at..at, piece);
            }
            8 => bytes.truncate(at),
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                let range = self.range(bytes.len());
                bytes.splice(range, word.iter().copied());
            }
        }
        bytes.truncate(64 * 1024);
    }
}
