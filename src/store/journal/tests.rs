use super::*;
use crate::store::reader::EventReader;

fn limits(max_bytes: Option<u64>, keep: Option<usize>) -> Limits {
    Limits { max_bytes, keep, sync: Sync::Never }
}

fn line(seq: u64) -> String {
    format!("{{\"seq\":{seq},\"message\":\"event {seq}\"}}\n")
}

#[test]
fn with_an_interval_a_full_segment_is_left_to_others_to_force() {
    for sync in [Sync::Interval, Sync::Always, Sync::Never] {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes: Some(1), keep: None, sync };
        let mut journal = Journal::open(folder.path(), limits).unwrap().journal;
        journal.append(b"{\"seq\":1}\n", 1).unwrap();
        assert!(journal.take_finished().is_none());
        journal.append(b"{\"seq\":2}\n", 2).unwrap();
        let finished = journal.take_finished();
        assert_eq!(finished.is_some(), sync == Sync::Interval, "{sync:?}");
        if let Some(finished) = finished {
            finished.force().unwrap();
            assert_eq!(finished.file.metadata().unwrap().len(), 10);
        }
        assert!(journal.take_finished().is_none());
    }
}

/// What the files of a folder hold, by name; of times in names only that there is one.
fn files(folder: &Path) -> Vec<(String, String)> {
    let file = |entry: io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let words = name.split('.').map(|word| if word.len() == 13 { "TIME" } else { word });
        (words.collect::<Vec<_>>().join("."), fs::read_to_string(&path).unwrap())
    };
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(file).collect();
    files.sort();
    files
}

fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
}

#[test]
fn a_segment_replaces_no_file() {
    for known in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let put_there = || {
            let path = folder.path().join("events.1.jsonl");
            File::create(path).unwrap().write_all(b"precious").unwrap();
        };
        if known {
            put_there();
        }
        let mut journal = Journal::open(folder.path(), limits(Some(1), None)).unwrap().journal;
        if !known {
            put_there();
        }
        for seq in 1..=2 {
            journal.append(line(seq).as_bytes(), seq).unwrap();
        }
        let expected = named(&[
            ("events.1.jsonl", &line(1)),
            ("events.1.jsonl.TIME.damaged", "precious"),
            ("events.jsonl", &line(2)),
        ]);
        assert_eq!(files(folder.path()), expected);
        assert_eq!(*journal.view().finished, segments::finished(folder.path()).unwrap());
    }
}

#[test]
fn a_log_that_somebody_takes_away_is_begun_anew_with_what_no_state_file_has() {
    for replaced_by in [None, Some(""), Some("precious")] {
        for disposable in 0..=4 {
            let folder = tempfile::tempdir().unwrap();
            let mut journal = Journal::open(folder.path(), limits(None, None)).unwrap().journal;
            (1..=4).for_each(|seq| journal.append(line(seq).as_bytes(), seq).unwrap());
            journal.dispose_up_to(disposable);
            journal.look_after().unwrap();
            assert!(journal.take_repairs().is_empty());

            take_away(folder.path(), replaced_by);
            journal.look_after().unwrap();
            journal.look_after().unwrap();
            let [repair] = &journal.take_repairs()[..] else { panic!("one repair") };
            let lost = format!("the events from seq 1 to {disposable} are not");
            assert_eq!(repair.problem.contains(&lost), disposable > 0, "{repair:?}");
            let kept = repair.kept_as.as_ref().map(|path| fs::read_to_string(path).unwrap());
            assert_eq!(kept.as_deref(), replaced_by.filter(|text| !text.is_empty()));

            journal.append(line(5).as_bytes(), 5).unwrap();
            let expected: String = (disposable + 1..=5).map(line).collect();
            assert_eq!(fs::read_to_string(folder.path().join("events.jsonl")).unwrap(), expected);
            assert_eq!(journal.oldest_seq(), Some(disposable + 1));
            let mut reader = EventReader::new(journal.view(), 1, 5);
            let seqs: Vec<u64> = std::iter::from_fn(|| reader.advance().unwrap()).collect();
            assert_eq!(seqs, (disposable + 1..=5).collect::<Vec<_>>());
        }
    }
}

/// Renames the segment that is written, and puts another file in its place.
fn take_away(folder: &Path, replaced_by: Option<&str>) {
    let path = folder.join("events.jsonl");
    fs::rename(&path, folder.join("elsewhere")).unwrap();
    if let Some(text) = replaced_by {
        File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn a_rotation_that_finds_the_log_taken_away_does_not_stall() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), limits(Some(1), None)).unwrap().journal;
    (1..=2).for_each(|seq| journal.append(line(seq).as_bytes(), seq).unwrap());
    journal.dispose_up_to(2);
    take_away(folder.path(), None);
    (3..=4).for_each(|seq| journal.append(line(seq).as_bytes(), seq).unwrap());
    assert_eq!(journal.take_repairs().len(), 1);
    let expected = [("elsewhere", 2), ("events.1.jsonl", 1), ("events.3.jsonl", 3), ("events.jsonl", 4)];
    assert_eq!(files(folder.path()), expected.map(|(name, seq)| (name.to_owned(), line(seq))));
}

#[test]
fn a_new_segment_that_could_not_be_made_is_made_by_the_next_try() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), limits(Some(1), None)).unwrap().journal;
    journal.append(line(1).as_bytes(), 1).unwrap();
    // So far a try comes whose open(2) fails.
    fs::rename(folder.path().join("events.jsonl"), folder.path().join("events.1.jsonl")).unwrap();
    journal.look_after().unwrap();
    assert!(journal.take_repairs().is_empty());
    journal.append(line(2).as_bytes(), 2).unwrap();
    let expected = named(&[("events.1.jsonl", &line(1)), ("events.jsonl", &line(2))]);
    assert_eq!(files(folder.path()), expected);
}

#[test]
fn segments_rotate_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), limits(Some(100), Some(2))).unwrap().journal;
    for seq in 1..=50 {
        journal.append(line(seq).as_bytes(), seq).unwrap();
    }
    assert_eq!(journal.oldest_seq(), Some(1), "what is in no state file stays");
    journal.dispose_up_to(10);
    let oldest = journal.oldest_seq().unwrap();
    assert!((2..=11).contains(&oldest), "{oldest}");
    journal.dispose_up_to(50);
    let finished = segments::finished(folder.path()).unwrap();
    assert_eq!(finished.len(), 2);
    assert_eq!(*journal.view().finished, finished);
    assert_eq!(journal.oldest_seq(), Some(finished[0].first_seq));
    let reopened = Journal::open(folder.path(), limits(Some(100), Some(2))).unwrap();
    assert_eq!(reopened.last_seq, 50);
    assert_eq!(reopened.journal.oldest_seq(), journal.oldest_seq());
}

#[test]
fn a_segment_stays_until_the_last_of_its_events_is_in_the_state_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), limits(Some(1), Some(1))).unwrap().journal;
    // Two events to a segment.
    for seq in [1, 3, 5, 7] {
        journal.append(format!("{}{}", line(seq), line(seq + 1)).as_bytes(), seq).unwrap();
    }
    for (disposable, oldest) in [(0, 1), (1, 1), (2, 3), (3, 3), (4, 5), (8, 5)] {
        journal.dispose_up_to(disposable);
        assert_eq!(journal.oldest_seq(), Some(oldest), "up to {disposable}");
    }
}
