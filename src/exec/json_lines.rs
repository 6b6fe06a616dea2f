//! A run's output as JSON lines: each becomes a live event, the first of them stay in the record.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::JsonParseError;

/// Bytes of JSON lines that the record holds; all of them are `run.output` events in the log.
pub const KEPT: usize = 1024 * 1024;
/// A longer line is not looked at.
const LONGEST_LINE: usize = 64 * 1024 * 1024;
/// Complaints that the record holds.
const KEPT_ERRORS: usize = 100;

/// Called with the JSON lines that came together, in order; it may wait, and so holds back the process that prints.
pub type OnJson = Arc<dyn Fn(Vec<Box<RawValue>>) + Send + Sync>;

/// What the record holds of them.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// The first of them.
    pub events: Vec<Box<RawValue>>,
    /// Whether there were more.
    pub truncated: bool,
    /// Lines that are none.
    pub errors: Vec<JsonParseError>,
}

/// Makes lines of pieces.
pub struct JsonLines {
    on_json: OnJson,
    partial: Vec<u8>,
    /// The line being read is too long: the rest of it is passed over.
    too_long: bool,
    line: u64,
    kept: usize,
    collected: Collected,
}

impl JsonLines {
    /// Nothing read yet.
    pub fn new(on_json: OnJson) -> Self {
        Self {
            on_json,
            partial: Vec::new(),
            too_long: false,
            line: 0,
            kept: 0,
            collected: Collected::default(),
        }
    }

    /// Takes the next piece of the output.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !self.too_long {
                self.partial.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                events.extend(self.end_of_line());
            } else if self.partial.len() > LONGEST_LINE {
                self.too_long = true;
                self.partial = Vec::new();
            }
        }
        self.tell(events);
    }

    /// The end of the output: a last line without a line end counts too.
    pub fn finish(mut self) -> Collected {
        if self.too_long || !self.partial.is_empty() {
            let events = self.end_of_line().into_iter().collect();
            self.tell(events);
        }
        self.collected
    }

    fn tell(&self, events: Vec<Box<RawValue>>) {
        if !events.is_empty() {
            (self.on_json)(events);
        }
    }

    fn end_of_line(&mut self) -> Option<Box<RawValue>> {
        self.line += 1;
        let line = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.too_long) {
            self.complain(format!("longer than {LONGEST_LINE} bytes"));
            return None;
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            return None;
        }
        match serde_json::from_str::<Box<RawValue>>(text.trim()) {
            Ok(event) => {
                self.keep(&event);
                Some(event)
            }
            Err(error) => {
                self.complain(error.to_string());
                None
            }
        }
    }

    fn keep(&mut self, event: &RawValue) {
        self.kept = self.kept.saturating_add(event.get().len());
        if self.kept <= KEPT {
            self.collected.events.push(event.to_owned());
        } else {
            self.collected.truncated = true;
        }
    }

    fn complain(&mut self, message: String) {
        if self.collected.errors.len() < KEPT_ERRORS {
            self.collected.errors.push(JsonParseError { line: self.line, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<String>, Collected) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&told);
        let mut lines = JsonLines::new(Arc::new(move |events| {
            into.lock().unwrap().extend(events.iter().map(|event| event.get().to_owned()));
        }));
        pieces.iter().for_each(|piece| lines.add(piece));
        let collected = lines.finish();
        let told = told.lock().unwrap().clone();
        (told, collected)
    }

    #[test]
    fn lines_are_put_together_and_the_last_needs_no_end() {
        let (told, collected) = read(&[b"{\"a\":", b"1}\n\n  \nnot json\n{\"b\"", b":2}\r\n[3]"]);
        assert_eq!(told, ["{\"a\":1}", "{\"b\":2}", "[3]"]);
        assert_eq!(collected.events.len(), 3);
        assert_eq!(collected.errors.iter().map(|error| error.line).collect::<Vec<_>>(), [4]);
        assert!(!collected.truncated);
    }

    #[test]
    fn the_record_holds_the_first_and_says_that_there_are_more() {
        let line = format!("\"{}\"\n", "x".repeat(KEPT / 4));
        let (told, collected) = read(&[line.as_bytes(); 5]);
        assert_eq!((told.len(), collected.events.len(), collected.truncated), (5, 3, true));
    }

    #[test]
    fn the_rest_of_a_line_that_is_too_long_is_no_line_of_its_own() {
        let piece = vec![b'x'; 1024 * 1024];
        let mut pieces = vec![piece.as_slice(); LONGEST_LINE / piece.len() + 2];
        pieces.extend([&b"x\n"[..], b"{\"next\":1}\n"]);
        pieces.insert(pieces.len() - 2, b"{\"its\":\"end\"}");
        let (told, collected) = read(&pieces);
        assert_eq!(told, ["{\"next\":1}"]);
        let errors: Vec<_> =
            collected.errors.iter().map(|error| (error.line, error.message.as_str())).collect();
        assert_eq!(errors, [(1, "longer than 67108864 bytes")]);
    }

    #[test]
    fn no_more_complaints_are_kept_than_some() {
        let (_, collected) = read(&[b"x\n".repeat(KEPT_ERRORS + 1).as_slice()]);
        assert_eq!(collected.errors.len(), KEPT_ERRORS);
    }
}
