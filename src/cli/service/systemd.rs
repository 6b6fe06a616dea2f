//! The user unit of systemd (systemd.unit(5), systemd.service(5), systemd.exec(5)).

use super::file::MARK;
use super::{Plan, Variables};

/// Its name.
pub(super) const UNIT: &str = "codexd.service";

const TEMPLATE: &str = include_str!("../../../ops/systemd/codexd.service");
/// Where the template's own variables are, one a line.
const VARIABLE: &str = "Environment=";

/// The template with everything filled in.
pub(super) fn render(plan: &Plan) -> Result<String, String> {
    let mut unit = format!("# {MARK}; `codexd service uninstall` removes it.\n");
    let mut variables = Some(variables_of(plan)?);
    if plan.program.contains(['"', '\'', '\\']) {
        return Err(format!(
            "systemd starts no program with quotes or backslashes in its path: {}",
            plan.program
        ));
    }
    let program = quoted(&plan.program)?;
    let stop_seconds = plan.stop_seconds.to_string();
    // The template's first lines are about the template.
    let lines = TEMPLATE.lines().skip_while(|line| line.starts_with('#'));
    for line in lines {
        if line.starts_with(VARIABLE) {
            // All of them stand where the first one stood.
            unit.push_str(&variables.take().unwrap_or_default());
            continue;
        }
        unit.push_str(&line.replace("__CODEXD__", &program).replace("__STOP_SECONDS__", &stop_seconds));
        unit.push('\n');
    }
    Ok(unit)
}

fn variables_of(plan: &Plan) -> Result<String, String> {
    let path = ("PATH".to_owned(), plan.path.clone());
    let all = std::iter::once(&path).chain(&plan.variables);
    all.map(|(name, value)| Ok(format!("{VARIABLE}{}\n", quoted(&format!("{name}={value}"))?))).collect()
}

/// A word in double quotes. `%` begins a specifier; `$` has no meaning, neither in a variable nor in a program's path.
fn quoted(word: &str) -> Result<String, String> {
    let mut out = String::with_capacity(word.len() + 2);
    out.push('"');
    for char in word.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '%' => out.push_str("%%"),
            char if char.is_control() => {
                return Err(format!("a systemd unit cannot hold the control character in {word:?}"));
            }
            char => out.push(char),
        }
    }
    out.push('"');
    Ok(out)
}

/// The variables of a unit that [`render`] made.
pub(super) fn variables(unit: &str) -> Variables {
    let assignments = unit.lines().filter_map(|line| line.strip_prefix(VARIABLE)?.strip_suffix('"'));
    assignments
        .filter_map(|quoted| {
            let text = unquoted(quoted)?;
            text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The program of a unit that [`render`] made.
pub(super) fn program(unit: &str) -> Option<String> {
    unquoted(unit.lines().find_map(|line| line.strip_prefix("ExecStart=")?.strip_suffix("\" start"))?)
}

/// A word in double quotes, the closing one taken off.
fn unquoted(quoted: &str) -> Option<String> {
    let quoted = quoted.strip_prefix('"')?;
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            // Both are followed by the character they stand for.
            '\\' | '%' => text.extend(chars.next()),
            char => text.push(char),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(quoted(r#"a b"c\d%e$f"#).unwrap(), r#""a b\"c\\d%%e$f""#);
        assert!(quoted("a\nb").is_err());
    }
}
