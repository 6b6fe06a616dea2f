//! Reading a state file that is one long list in a small frame, record by record. Read in one go, the text of 10 MB costs
//! nearly as many page faults as what is made of it, and is only then out of the processor's caches.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::de::DeserializeOwned;

/// Bytes read at a time, unless a record is longer.
const CHUNK: usize = 64 * 1024;
/// Bytes of a file's end that show whether it ends with its list.
const TAIL: usize = 8;

/// The file's own text with nothing in its list, and what was in it. The list is the first in the file, under one of these
/// names, and of objects. `None` where that is not so, or anything else is out of order or cannot be read: whoever reads
/// the file as a whole finds out what.
pub(super) fn read<T: DeserializeOwned>(path: &Path, names: &[&str]) -> Option<(Vec<u8>, Vec<T>)> {
    let mut text = Window::open(path)?;
    let mut frame = text.head(names)?.to_vec();
    text.at = frame.len();
    let mut list = Vec::new();
    if text.token()? != b']' {
        loop {
            list.push(text.object()?);
            match text.token()? {
                b',' => text.at += 1,
                b']' => break,
                _ => return None,
            }
        }
    }
    while text.read_on()? {}
    frame.extend_from_slice(text.ahead());
    Some((frame, list))
}

/// The file's own text with nothing in its list, which is not looked at; else as [`read`]. The list is the last member: what
/// might come behind it, up to another list at the file's end, is taken for a part of it.
pub(super) fn head(path: &Path, name: &str) -> Option<Vec<u8>> {
    let text = Window::open(path)?;
    let head = text.head(&[name])?;
    let mut tail = [0; TAIL];
    let length = text.file.metadata().ok()?.len();
    text.file.read_exact_at(&mut tail, length.checked_sub(TAIL as u64)?).ok()?;
    let list = tail.trim_ascii_end().strip_suffix(b"}").map(<[u8]>::trim_ascii_end)?;
    list.ends_with(b"]").then(|| [head, b"]}"].concat())
}

/// Whether this text, up to a list's bracket, makes it the outermost object's member of that name.
fn introduces(head: &[u8], name: &str) -> bool {
    let key = head.strip_suffix(b"[").and_then(|head| head.trim_ascii_end().strip_suffix(b":"));
    let key = key.map(|key| key.trim_ascii_end()).and_then(|key| key.strip_suffix(b"\""));
    let before =
        key.and_then(|key| key.strip_suffix(name.as_bytes())).and_then(|key| key.strip_suffix(b"\""));
    // What a key follows; after anything else, such as an escape, that quote begins none.
    let begins = |before: &[u8]| matches!(before.trim_ascii_end().last(), Some(b'{' | b','));
    before.is_some_and(|before| begins(before) && before.iter().filter(|&&byte| byte == b'{').count() == 1)
}

/// A part of the file that moves on.
struct Window {
    file: File,
    buffer: Vec<u8>,
    /// What is before that in the buffer is done with.
    at: usize,
}

impl Window {
    fn open(path: &Path) -> Option<Self> {
        // Looked at first: opening a pipe would wait for ever.
        let length = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
        let room = usize::try_from(length).map_or(CHUNK, |length| length.min(2 * CHUNK));
        let mut window = Self { file: File::open(path).ok()?, buffer: Vec::with_capacity(room), at: 0 };
        window.read_on()?;
        Some(window)
    }

    fn ahead(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// The text up to the first list's bracket, if the list has one of these names.
    fn head(&self, names: &[&str]) -> Option<&[u8]> {
        let (head, _) = self.ahead().split_at(1 + memchr::memchr(b'[', self.ahead())?);
        names.iter().any(|name| introduces(head, name)).then_some(head)
    }

    /// Whether there was more.
    fn read_on(&mut self) -> Option<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        // What does not fit is looked at again from its beginning, so there is twice as much of it each time.
        let most = self.buffer.len().max(CHUNK) as u64;
        let read = (&self.file).take(most).read_to_end(&mut self.buffer).ok()?;
        Some(read > 0)
    }

    /// The first byte ahead that is no white space, which is passed over.
    fn token(&mut self) -> Option<u8> {
        loop {
            let blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
            self.at += self.ahead().iter().take_while(blank).count();
            if let Some(&byte) = self.ahead().first() {
                return Some(byte);
            }
            if !self.read_on()? {
                return None;
            }
        }
    }

    /// Takes an object. Anything else might go on behind the window's end without that being seen.
    fn object<T: DeserializeOwned>(&mut self) -> Option<T> {
        if self.token()? != b'{' {
            return None;
        }
        loop {
            let mut values = serde_json::Deserializer::from_slice(self.ahead()).into_iter::<T>();
            match values.next()? {
                Ok(object) => {
                    self.at += values.byte_offset();
                    return Some(object);
                }
                Err(error) if error.is_eof() && self.read_on()? => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::{Value, json};

    use super::*;

    fn read_text(text: &str) -> Option<(String, Vec<Value>)> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(file.path(), &["runs", "sessions"])
            .map(|(frame, list)| (String::from_utf8(frame).unwrap(), list))
    }

    #[test]
    fn a_list_is_read_out_of_its_frame() {
        for text in [
            r#"{"updatedAt":null,"runs":[{"a":[1]},{"b":"]"}],"appliedSeq":7}"#,
            "{\n  \"updatedAt\": null,\n  \"runs\" : [\n    {\n      \"a\": [\n        1\n      ]\n    } ,\n    \
             {\"b\":\"]\"}\n  ],\n  \"appliedSeq\": 7\n}\n",
        ] {
            let (frame, list) = read_text(text).unwrap();
            assert_eq!(list, [json!({"a": [1]}), json!({"b": "]"})]);
            let frame: Value = serde_json::from_str(&frame).unwrap();
            assert_eq!(frame, json!({"updatedAt": null, "runs": [], "appliedSeq": 7}));
        }
        assert_eq!(read_text(r#"{"sessions":[ ]}"#), Some((r#"{"sessions":[]}"#.to_owned(), vec![])));
    }

    #[test]
    fn a_head_is_read_without_the_list() {
        let head_of = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            head(file.path(), "events").map(|head| String::from_utf8(head).unwrap())
        };
        let long = format!("{{\"a\":1,\"events\":[{{\"b\":\"{}\"}}]}}", "x".repeat(3 * CHUNK));
        for text in [&long, "{\"a\":1,\"events\":[]}", "{\"a\":1,\"events\":[{}\n  ]\n}\n"] {
            assert_eq!(head_of(text).as_deref(), Some("{\"a\":1,\"events\":[]}"));
        }
        for text in ["", "{}", "{\"a\":[]}", "{\"events\":[],\"a\":1}", "{\"events\":[{}", "{\"events\":[{}]"]
        {
            assert_eq!(head_of(text), None, "{text}");
        }
    }

    #[test]
    fn records_of_every_length_are_whole_wherever_the_window_ends() {
        for length in [1, 100, 1000, CHUNK - 20, CHUNK, 3 * CHUNK] {
            let records: Vec<Value> = (0..(5 * CHUNK / length).clamp(3, 3000))
                .map(|number| json!({"number": number, "text": "x\"[{".repeat(length.div_ceil(4))}))
                .collect();
            for text in [
                json!({"runs": records, "seq": 1}).to_string(),
                serde_json::to_string_pretty(&json!({"runs": records, "seq": 1})).unwrap(),
            ] {
                let (frame, list) = read_text(&text).unwrap();
                assert_eq!(list.len(), records.len());
                assert!(list == records, "{length}");
                let frame: Value = serde_json::from_str(&frame).unwrap();
                assert_eq!(frame, json!({"runs": [], "seq": 1}));
            }
        }
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_left_to_others() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"other":[]}"#,
            r#"{"other":[{}],"runs":[]}"#,
            r#"{"in":{"runs":[{}]},"runs":[]}"#,
            r#"{"text":"\"runs\":[","runs":[]}"#,
            r#"{"xruns":[{}]}"#,
            r#"{"x\"runs":[{}],"runs":[]}"#,
            "{\"runs\":[{}\x0c]}",
            r#"{"runs":[1]}"#,
            r#"{"runs":[{},]}"#,
            r#"{"runs":[{} {}]}"#,
            r#"{"runs":[{"a":1]}"#,
            r#"{"runs":[{"a":1"#,
            r#"{"runs":[{}"#,
            r#"{"runs":["#,
        ] {
            assert_eq!(read_text(text), None, "{text}");
        }
        assert!(read::<Value>(Path::new("/nonexistent"), &["runs"]).is_none());
        assert!(read::<Value>(Path::new("/dev/null"), &["runs"]).is_none());
    }
}
