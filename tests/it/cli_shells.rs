//! `codexd completions` and `codexd man`, as the programs they are for take them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use codexd::cli::completions::{SHELLS, script};
use codexd::cli::flags::{ACTIONS, FLAGS};

use crate::cli_support::codexd;
use crate::skipped::skipped;

/// Runs a program on a file with that content; `None`, loudly, where there is no such program.
fn on_file(program: &str, args: &[&str], content: &str) -> Option<Output> {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let mut command = Command::new(program);
    command.args(args).arg(file.path()).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100");
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            skipped(&format!("what {program} {} says", args.join(" ")), &error.to_string());
            None
        }
    }
}

fn said(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_action_and_flag_is_in_every_script_and_the_shells_parse_them() {
    for shell in SHELLS.split('|') {
        let ran = codexd(&["completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        assert_eq!(ran.stdout, script(shell).unwrap());
        for flag in FLAGS {
            let name =
                if shell == "fish" { format!(" -l {} ", flag.name) } else { format!("--{}", flag.name) };
            assert!(ran.stdout.contains(&name), "{shell}: {name}");
        }
        for action in ACTIONS {
            assert!(ran.stdout.contains(action.name), "{shell}: {}", action.name);
        }
        if let Some(output) = on_file(shell, &["-n"], &ran.stdout) {
            assert_eq!(said(&output), (true, String::new(), String::new()), "{shell}");
        }
    }
    let ran = codexd(&["completions", "tcsh"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert_eq!(ran.stderr, "codexd: completions are for bash, zsh, fish, not \"tcsh\"\n");
}

/// What bash offers for a line that ends at the cursor.
fn bash_offers(words: &[&str]) -> Option<Vec<String>> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let test = format!(
        "{}\nCOMP_WORDS=({}); COMP_CWORD={}; _codexd; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        script("bash").unwrap(),
        quoted.join(" "),
        words.len() - 1
    );
    let (success, stdout, stderr) = said(&on_file("bash", &[], &test)?);
    assert!(success && stderr.is_empty(), "{words:?}: {stderr}");
    Some(stdout.lines().map(str::to_owned).collect())
}

#[test]
fn bash_offers_what_fits() {
    for (words, expected) in [
        (&["codexd", "ta"][..], &["tail"][..]),
        (&["codexd", "--node-id", "status", "stat"], &["status"]),
        (&["codexd", "tail", "--aft"], &["--after"]),
        (&["codexd", "status", "--aft"], &[""]),
        (&["codexd", "--mode", "e"], &["exec"]),
        (&["codexd", "--mode", "=", "a"], &["app-server"]),
        (&["codexd", "answer", ""], &[""]),
        (&["codexd", "answer", "request-1", "accept"], &["accept", "acceptForSession"]),
        (&["codexd", "answer", "--json", "request-1", "dec"], &["decline"]),
        (&["codexd", "completions", "z"], &["zsh"]),
        (&["codexd", "tail", "ta"], &[""]),
    ] {
        let Some(offers) = bash_offers(words) else { return };
        assert_eq!(offers, expected, "{words:?}");
    }
    let Some(files) = bash_offers(&["codexd", "--repo-root", "/et"]) else { return };
    assert!(files.contains(&"/etc".to_owned()), "{files:?}");
}

#[test]
fn fish_offers_what_fits() {
    for (line, expected) in [
        ("codexd ta", "tail"),
        ("codexd tail --aft", "--after"),
        ("codexd --mode e", "exec"),
        ("codexd answer request-1 dec", "decline"),
    ] {
        let test = format!("{}\ncomplete -C '{line}'\n", script("fish").unwrap());
        let Some(output) = on_file("fish", &["--no-config"], &test) else { return };
        let (success, stdout, stderr) = said(&output);
        assert!(success && stderr.is_empty(), "{line}: {stderr}");
        let offers: Vec<&str> = stdout.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(offers, [expected], "{line}");
    }
}

#[test]
fn the_manual_page_has_everything_and_formatters_have_no_complaint() {
    let page = codexd(&["man"]).stdout;
    for (program, args) in
        [("mandoc", &["-T", "lint", "-W", "warning"][..]), ("man", &["--warnings", "-E", "ascii", "-l"])]
    {
        let Some(output) = on_file(program, args, &page) else { continue };
        let (_, stdout, stderr) = said(&output);
        if program == "mandoc" {
            // A page that is the same for the same version has no date.
            let complaints: Vec<&str> =
                stdout.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(complaints.is_empty() && stderr.is_empty(), "{complaints:#?} {stderr}");
            continue;
        }
        assert_eq!(stderr, "", "{program}");
        for flag in FLAGS {
            let synopsis = format!("--{} {}", flag.name, flag.value().unwrap_or_default());
            assert!(stdout.contains(&format!("       {}", synopsis.trim_end())), "{synopsis}");
            for variable in flag.env {
                assert!(stdout.contains(variable), "{variable}");
            }
        }
        for action in ACTIONS {
            assert!(stdout.contains(&format!("\n       {}", action.name)), "{}", action.name);
        }
        // Lines are filled up with blanks, from either side by turns.
        let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("Exit codes: 0 done"), "{stdout}");
    }
}
