//! The deltas of one text follow each other by the hundreds, and those of a few texts take turns: what all of one text have
//! in common is made once.

use std::sync::Arc;

use super::delta::{Delta, first_string, is_end};
use crate::hub::drafts::Drafts;
use crate::model;
use crate::model::event::EventType;

/// How many texts may come at once, as from so many sessions, before their deltas take the longer way.
const RUNS: usize = 8;
/// So many beginnings of others the run that was used longest ago outlasts: where more texts come in turns than are
/// remembered, to make a run for each would take longer than the longer way.
const OUTLASTS: u32 = 16;

/// The runs that deltas were of last, the latest first.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    recent: Vec<Run>,
}

impl Runs {
    /// Drafts the event of a line that is a delta as Codex writes it. `false` if it is something else; then nothing was
    /// drafted.
    pub(crate) fn draft(&mut self, drafts: &mut Drafts, line: &str) -> bool {
        let known = self.recent.iter().position(|run| line.starts_with(&*run.line));
        if let Some(at) = known {
            self.recent[..=at].rotate_right(1);
            self.recent[0].outlasts = OUTLASTS;
            if self.recent[0].draft(drafts, line) {
                return true;
            }
        }
        let Some(delta) = Delta::of_line(line) else { return false };
        delta.draft(drafts);
        if known.is_none() {
            self.begin(line, &delta);
        }
        true
    }

    fn begin(&mut self, line: &str, delta: &Delta<'_>) {
        if let Some(oldest) = self.recent.get_mut(RUNS - 1) {
            oldest.outlasts -= 1;
            if oldest.outlasts > 0 {
                return;
            }
            self.recent.truncate(RUNS - 1);
        }
        self.recent.splice(..0, Run::of(line, delta));
    }
}

/// Of the deltas of one text, hundreds of which follow each other, what is the same in all: their lines up to the text,
/// and what stands before and after it in their events.
#[derive(Debug)]
struct Run {
    line: String,
    event: EventType,
    thread: Arc<str>,
    before: String,
    after: String,
    /// See [`OUTLASTS`]; never 0.
    outlasts: u32,
}

/// What stands in an event's JSON between the delta that is shown and the delta.
const BETWEEN: &str = r#"","detail":{"delta":"#;
/// Bytes before the text at most: a longer message may have to be cut.
const MAX_BEFORE: usize = 512;

impl Run {
    /// The run that begins with this delta, which is of that line.
    fn of(line: &str, delta: &Delta<'_>) -> Option<Self> {
        let line = line.strip_suffix(line.split_once(r#","delta":"#)?.1)?.to_owned();
        let mut drafts = Drafts::new();
        delta.empty().draft(&mut drafts);
        let (text, mut subjects, items) = drafts.into_parts();
        let text = str::from_utf8(items.first()?.text(&text)).ok()?;
        let (before, after) = text.split_once(BETWEEN)?;
        let (before, after) = (before.to_owned(), after.strip_prefix(r#""""#)?.to_owned());
        let thread = subjects.pop()?.thread?;
        (before.len() <= MAX_BEFORE).then_some(Self {
            line,
            event: delta.event(),
            thread,
            before,
            after,
            outlasts: OUTLASTS,
        })
    }

    /// Drafts the event of a line that goes on with the run. `false` if it does not, or if it shows otherwise than it is
    /// written; then nothing was drafted.
    fn draft(&self, drafts: &mut Drafts, line: &str) -> bool {
        let Some(mut rest) = line.strip_prefix(&*self.line) else { return false };
        let delta = first_string(&mut rest).filter(|_| is_end(rest));
        let Some((delta, (shown, cut))) = delta.and_then(|delta| Some((delta, model::plain_preview(delta)?)))
        else {
            return false;
        };
        let about = drafts.about_thread(&self.thread);
        let pieces = [&*self.before, shown, cut, BETWEEN, delta, &self.after];
        drafts.push_pieces(self.event, self.event.level(), about, &pieces);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::delta::tests::ORDINARY;
    use super::*;
    use crate::hub::drafts::Draft;

    /// What stands in the drafts and what they are about, by lines of which each goes through these runs or, where they do
    /// not take it, is left out.
    fn drafted<'a>(runs: &mut Runs, lines: impl Iterator<Item = &'a str>) -> Vec<(String, Option<Arc<str>>)> {
        let mut drafts = Drafts::new();
        for line in lines {
            runs.draft(&mut drafts, line);
        }
        let (text, subjects, items) = drafts.into_parts();
        let text_of = |item: &Draft| String::from_utf8(item.text(&text).to_vec()).unwrap();
        items.iter().map(|item| (text_of(item), subjects[item.about].thread.clone())).collect()
    }

    #[test]
    fn a_line_within_a_run_becomes_what_it_becomes_alone() {
        let texts = [
            "a",
            "",
            " ",
            " a  b ",
            "a b",
            r"\n",
            r#"\""#,
            "ä",
            "\u{7f}",
            "\u{1}",
            r"\u00e4",
            "a\"b",
            r#"a"},"x":{"y":"#,
        ];
        let long = ["x".repeat(160), "x".repeat(161), "a b ".repeat(100), "ä".repeat(200)];
        let mut lines = Vec::new();
        for (from, to) in [
            ("", ""),
            (r#""t""#, r#""other""#),
            (r#""t""#, r#""\n""#),
            (r#""u""#, r#""\"""#),
            (r#""i""#, r#""","delta":"""#),
            ("agentMessage", "plan"),
            (r#"{"method"#, r#"{ "method"#),
            (r#"\n}"}"#, r#"\n}","more":1}"#),
            (r#","emittedAtMs":1795221284857"#, ""),
            ("857}", "857} "),
        ] {
            let line = ORDINARY.replace(from, to);
            let texts = texts.iter().copied().chain(long.iter().map(String::as_str));
            lines.extend(texts.map(|text| line.replace(r"a ä\n}", text)));
        }
        for length in [400, 600, 2000] {
            let turn = format!(r#""{}""#, "u".repeat(length));
            lines.extend([""; 3].map(|_| ORDINARY.replace(r#""u""#, &turn)));
        }
        let mut alone = Vec::new();
        for line in &lines {
            alone.extend(drafted(&mut Runs::default(), [&**line].into_iter()));
        }
        assert!(alone.len() > lines.len() / 3, "{} of {}", alone.len(), lines.len());
        let mut runs = Runs::default();
        assert_eq!(drafted(&mut runs, lines.iter().map(String::as_str)), alone);
        // One after another of two runs, and in an order in which most lines follow one of another run.
        let shuffled: Vec<usize> = (0..lines.len()).map(|at| at * 37 % lines.len()).collect();
        let expected: Vec<_> = shuffled
            .iter()
            .flat_map(|&at| drafted(&mut Runs::default(), [&*lines[at]].into_iter()))
            .collect();
        assert_eq!(drafted(&mut runs, shuffled.iter().map(|&at| &*lines[at])), expected);
    }

    /// A line of the text with that number.
    fn line_of(text: usize) -> String {
        ORDINARY.replace(r#""i""#, &format!(r#""i{text}""#)).replace(r"a ä\n}", "more")
    }

    /// How many of the lines, of these texts in this order, go on with a run.
    fn in_runs(texts: impl Iterator<Item = usize>) -> usize {
        let (mut runs, mut drafts) = (Runs::default(), Drafts::new());
        let lines: Vec<String> = texts.map(line_of).collect();
        let goes_on = |line: &String| {
            let mut copy = Drafts::new();
            let goes_on = runs.recent.iter().any(|run| run.draft(&mut copy, line));
            assert!(runs.draft(&mut drafts, line));
            goes_on
        };
        let count = lines.iter().map(goes_on).filter(|&goes_on| goes_on).count();
        assert_eq!(drafts.count(), lines.len());
        count
    }

    #[test]
    fn texts_that_come_in_turns_have_a_run_each() {
        for texts in 1..=RUNS {
            assert_eq!(in_runs((0..100).map(|at| at % texts)), 100 - texts, "{texts}");
        }
        // Of a few more, those that have one keep it.
        for texts in [RUNS + 1, 2 * RUNS] {
            assert_eq!(in_runs((0..10 * texts).map(|at| at % texts)), 9 * RUNS, "{texts}");
        }
        // Of many more, few are made in vain, and who comes next has its run soon.
        let many = (0..1000).map(|at| at % 100);
        let before = in_runs(many.clone());
        assert!(in_runs(many.chain([200; 100])) >= before + 100 - OUTLASTS as usize);
    }

    #[test]
    fn a_run_is_known_by_its_beginning_and_made_once() {
        let (mut runs, mut drafts) = (Runs::default(), Drafts::new());
        assert!(runs.draft(&mut drafts, ORDINARY));
        assert!(!runs.recent[0].draft(&mut drafts, &ORDINARY.replace(r#""u""#, r#""v""#)));
        let made = runs.recent[0].line.as_ptr();
        for text in [r"\n", "more", "ä"] {
            assert!(runs.draft(&mut drafts, &ORDINARY.replace(r"a ä\n}", text)), "{text}");
        }
        assert_eq!((runs.recent.len(), runs.recent[0].line.as_ptr()), (1, made));
        assert_eq!(drafts.count(), 4);
    }
}
