//! Every row of the table of flags, by the same rules.

use std::ffi::OsString;
use std::path::Path;

use codexd::cli::flags::{ACTIONS, ActionRow, FLAGS, Flag, Group, Operands, Update};
use codexd::cli::help::help;
use codexd::cli::low::LowArgs;
use codexd::cli::parse::{Parsed, parse};
use codexd::cli::resolve::resolve;

/// Two different values of a flag. A new flag without a row of its own takes numbers, words or paths.
fn samples(flag: &Flag) -> (&'static str, &'static str) {
    match flag.value() {
        Some("N" | "SEQ") => ("17", "18"),
        Some("PATH") => ("/one", "/two"),
        Some("ID" | "STRING" | "CMD" | "ARG" | "NAME" | "KEY=VALUE" | "PREFIX") => ("one", "two"),
        Some("URL") => ("http://127.0.0.1:1", "http://localhost:2"),
        Some("LEVEL") => ("error", "off"),
        Some(words) => words.split_once('|').map_or_else(
            || panic!("--{}: add samples for {words}", flag.name),
            |(one, two)| (one, two.split('|').next().unwrap_or(two)),
        ),
        None => ("true", "on"),
    }
}

fn low(words: &[String], env: &[(&str, &str)]) -> Result<LowArgs, String> {
    let lookup =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value));
    // A flag that is not for every action needs one it is for.
    let own = |word: &String| {
        FLAGS.iter().find(|flag| {
            word.strip_prefix("--").is_some_and(|word| word.split('=').next() == Some(flag.name))
        })
    };
    let action = words.iter().filter_map(own).find_map(|flag| flag.actions.first());
    let row = action.and_then(|action| ACTIONS.iter().find(|row| row.action == *action));
    let mut line: Vec<OsString> = row.into_iter().map(|row| row.name.into()).collect();
    if let Some(ActionRow { operands: Operands::Words(placeholders), .. }) = row {
        line.extend(placeholders.iter().map(OsString::from));
    }
    line.extend(words.iter().filter(|word| row.is_none() || *word != "status").map(OsString::from));
    match parse(line) {
        Ok(Parsed::Act(command)) => {
            LowArgs::gather(&command.given, &lookup).map_err(|error| error.to_string())
        }
        Ok(other) => panic!("{words:?}: {other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn ok(words: &[&str], env: &[(&str, &str)]) -> LowArgs {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    low(&words, env).unwrap_or_else(|error| panic!("{words:?} {env:?}: {error}"))
}

fn dashed(flag: &Flag) -> String {
    format!("--{}", flag.name)
}

#[test]
fn names_are_unique_and_variables_are_named_after_their_flags() {
    let mut seen = std::collections::BTreeSet::new();
    for flag in FLAGS {
        assert!(seen.insert(flag.name), "--{} twice", flag.name);
        assert!(
            !flag.doc.is_empty() && Group::ALL.contains(&(flag.group.as_str(), flag.group)),
            "--{}",
            flag.name
        );
        for name in flag.env {
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("BAA_"), "{name}");
        }
        if !flag.actions.is_empty() {
            assert!(flag.env.is_empty(), "--{}: what one call is about comes from nowhere else", flag.name);
            continue;
        }
        let expected = match flag.name {
            "json" | "run-once" => continue,
            "node-id" => "BAA_NODE_ID".to_owned(),
            "log-level" => "BAA_CODEXD_LOG".to_owned(),
            "server-arg" => "BAA_CODEXD_SERVER_ARGS".to_owned(),
            name => format!("BAA_CODEXD_{}", name.replace('-', "_").to_ascii_uppercase()),
        };
        assert_eq!(flag.env.first(), Some(&expected.as_str()), "--{}", flag.name);
    }
    for action in ACTIONS {
        assert!(seen.insert(action.name), "{} twice", action.name);
    }
}

#[test]
fn every_flag_parses_both_ways_and_the_last_wins() {
    for flag in FLAGS {
        let name = dashed(flag);
        let (one, two) = samples(flag);
        if flag.value().is_none() {
            assert_ne!(ok(&[&name], &[]), LowArgs::default(), "{name}");
            assert_eq!(low(&[format!("{name}=x")], &[]), Err(format!("{name} takes no value")));
            continue;
        }
        let spaced = ok(&[&name, one, "status"], &[]);
        assert_ne!(spaced, LowArgs::default(), "{name}");
        assert_eq!(ok(&[&format!("{name}={one}")], &[]), spaced, "{name}");
        assert_ne!(ok(&[&name, two], &[]), spaced, "{name}");
        if matches!(flag.update, Update::One(..)) {
            assert_eq!(
                ok(&[&name, two, "--json", &name, one], &[]),
                ok(&[&name, one, "--json"], &[]),
                "{name}"
            );
            assert_eq!(ok(&[&name, &format!("  {one} ")], &[]), spaced, "{name}");
        }
        for line in [&[name.clone()][..], &[name.clone(), "--json".into()], &[name.clone(), "--".into()]] {
            if line.len() == 1 && flag.name == "version" {
                continue;
            }
            let error = low(line, &[]).expect_err("the value is missing");
            assert!(error.starts_with(&format!("{name} needs a value: {name} ")), "{error}");
        }
    }
}

#[test]
fn every_variable_works_and_the_flag_beats_it() {
    for flag in FLAGS {
        let name = dashed(flag);
        let (one, two) = samples(flag);
        let typed = if flag.value().is_some() { ok(&[&name, one], &[]) } else { ok(&[&name], &[]) };
        for variable in flag.env {
            assert_eq!(ok(&[], &[(variable, one)]), typed, "{variable}");
            assert_eq!(ok(&[], &[(variable, &format!(" {one}\t"))]), typed, "{variable}");
            if flag.value().is_some() {
                assert_eq!(ok(&[&name, one], &[(variable, two)]), typed, "{name} beats {variable}");
            } else {
                assert_eq!(ok(&[], &[(variable, "off")]), LowArgs::default(), "{variable}");
                assert_eq!(ok(&[&name], &[(variable, "no")]), typed, "{name} beats {variable}");
            }
        }
        if let [first, second] = flag.env {
            assert_eq!(ok(&[], &[(second, two), (first, one)]), typed, "{first} beats {second}");
            assert_eq!(ok(&[], &[(second, one), (first, " ")]), typed, "a blank {first} does not");
        }
    }
}

#[test]
fn blank_is_unset() {
    for flag in FLAGS.iter().filter(|flag| flag.value().is_some()) {
        let name = dashed(flag);
        let (one, _) = samples(flag);
        assert_eq!(ok(&[&name, " \t"], &[]), LowArgs::default(), "{name}");
        assert_eq!(ok(&[&format!("{name}=")], &[]), LowArgs::default(), "{name}");
        for variable in flag.env.iter().filter(|_| matches!(flag.update, Update::One(..))) {
            assert_eq!(ok(&[], &[(variable, "  ")]), LowArgs::default(), "{variable}");
            assert_eq!(ok(&[&name, ""], &[(variable, one)]), ok(&[&name, one], &[]), "{variable}");
        }
    }
}

#[test]
fn a_bad_variable_matters_only_where_no_flag_beats_it() {
    for flag in FLAGS {
        let bad = match flag.value() {
            Some("N") => "1.5",
            Some("PATH" | "ID" | "STRING" | "CMD" | "URL" | "ARG") => continue,
            _ => "maybe",
        };
        let (one, _) = samples(flag);
        for variable in flag.env {
            let error = low(&[], &[(variable, bad)]).expect_err(variable);
            assert!(error.starts_with(&format!("{variable} must be ")), "{error}");
            assert!(error.ends_with(&format!(", not \"{bad}\"")), "{error}");
            let words =
                if flag.value().is_some() { vec![dashed(flag), one.into()] } else { vec![dashed(flag)] };
            assert!(low(&words, &[(variable, bad)]).is_ok(), "{variable}");
        }
    }
}

#[test]
fn the_defaults_in_the_help_are_the_defaults() {
    let cwd = Path::new("/srv/codexd");
    let default = resolve(LowArgs::default(), cwd).unwrap();
    for flag in FLAGS.iter().filter(|flag| flag.value().is_some()) {
        let place =
            ["current directory", "<repo root>/logs", "<repo root>/state", "repo root", "system's roots"];
        if !flag.actions.is_empty()
            || flag.default.is_empty()
            || place.contains(&flag.default)
            || flag.name == "log-level"
        {
            continue;
        }
        let low = ok(&[&dashed(flag), flag.default], &[]);
        assert_ne!(low, LowArgs::default(), "--{}", flag.name);
        assert_eq!(resolve(low, cwd).unwrap(), default, "--{} {}", flag.name, flag.default);
    }
}

#[test]
fn server_args_from_flags_and_from_the_variable() {
    let args = |words: &[&str], value: Option<&str>| {
        let env: Vec<_> = value.map(|value| ("BAA_CODEXD_SERVER_ARGS", value)).into_iter().collect();
        ok(words, &env).args
    };
    let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(args(&[], None), None);
    assert_eq!(args(&[], Some("")), list(&[]));
    assert_eq!(args(&[], Some(" \n ")), list(&[]));
    assert_eq!(args(&[], Some(" app-server  -c\tx=1 ")), list(&["app-server", "-c", "x=1"]));
    assert_eq!(args(&[], Some(r#" ["a b", "", "-c"] "#)), list(&["a b", "", "-c"]));
    assert_eq!(args(&[], Some("[]")), list(&[]));
    assert_eq!(args(&["--server-arg", "x", "--server-arg=--y"], Some("a b")), list(&["x", "--y"]));
    assert_eq!(args(&["--server-arg", " "], Some("a b")), list(&["a", "b"]));
    for bad in ["[", "[1]", r#"["a", null]"#, r#"["a"] b"#] {
        let error = low(&[], &[("BAA_CODEXD_SERVER_ARGS", bad)]).expect_err(bad);
        assert!(error.starts_with("BAA_CODEXD_SERVER_ARGS must be a JSON array of strings"), "{error}");
    }
}

#[test]
fn help_mentions_everything_within_100_columns() {
    let help = help();
    for flag in FLAGS {
        let synopsis = flag.value().map_or_else(|| dashed(flag), |value| format!("{} {value}", dashed(flag)));
        assert!(help.contains(&format!("\n  {synopsis}")), "{synopsis}");
        for variable in flag.env {
            assert!(help.contains(variable), "{variable}");
        }
        let shown = help.contains(&format!("[default: {}]", flag.default));
        assert!(shown || flag.default.is_empty() || flag.value().is_none(), "{synopsis}");
    }
    for action in ACTIONS {
        let line = |end: &str| help.contains(&format!("\n  {}{end}", action.name));
        assert!(line(" ") || line("\n"), "{}", action.name);
    }
    for (heading, _) in Group::ALL {
        assert!(help.contains(&format!("\n{heading}:\n")), "{heading}");
    }
    for line in help.lines() {
        assert!(line.chars().count() <= 100 && line.trim_end() == line, "{line:?}");
    }
}
