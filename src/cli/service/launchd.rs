//! The user agent of launchd (launchd.plist(5)).

use super::file::MARK;
use super::{Plan, Variables};

/// Its label.
pub(super) const LABEL: &str = "so.makefile.baa-codexd";

const TEMPLATE: &str = include_str!("../../../ops/launchd/so.makefile.baa-codexd.plist");

/// The template with everything filled in.
pub(super) fn render(plan: &Plan) -> Result<String, String> {
    let (before, environment, after) =
        parts(TEMPLATE).ok_or("the template of the property list is damaged")?;
    let fill = |text: &str| fill(text, plan);
    let (head, body) = before.split_once("<!--").ok_or("the template has no comment")?;
    let (_, body) = body.split_once("-->").ok_or("the template's comment has no end")?;
    let mut plist = format!("{head}<!-- {MARK}; `codexd service uninstall` removes it. -->{}", fill(body)?);
    for (name, value) in with_given(environment, plan, &fill)? {
        let (name, value) = (escaped(&name)?, escaped(&value)?);
        plist.push_str(&format!("    <key>{name}</key>\n    <string>{value}</string>\n"));
    }
    plist.push_str(&fill(after)?);
    Ok(plist)
}

/// The template's own variables, each with the value that was given instead, then what else was given.
fn with_given(
    environment: &str,
    plan: &Plan,
    fill: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Variables, String> {
    let given = |name: &str| plan.variables.iter().find(|(known, _)| known == name);
    let mut all = Variables::new();
    for (name, own) in pairs(environment) {
        let value = match (name.as_str(), given(&name)) {
            ("PATH", _) => plan.path.clone(),
            (_, Some((_, value))) => value.clone(),
            (_, None) => unescaped(&fill(&own)?),
        };
        all.push((name, value));
    }
    let more = plan.variables.iter().filter(|(name, _)| all.iter().all(|(known, _)| known != name));
    let more: Variables = more.cloned().collect();
    all.extend(more);
    Ok(all)
}

/// Text of the template, its placeholders filled in.
fn fill(text: &str, plan: &Plan) -> Result<String, String> {
    let logs = plan.logs_root.to_string_lossy();
    Ok(text
        // The output of the service goes to the logs root, wherever that is.
        .replace("__REPO_ROOT__/logs/launchd", &format!("{}/launchd", escaped(&logs)?))
        .replace("__HOME__", &escaped(&plan.home)?)
        .replace("__REPO_ROOT__", &escaped(&plan.repo_root)?)
        .replace("__CODEXD__", &escaped(&plan.program)?)
        .replace("__STOP_SECONDS__", &plan.stop_seconds.to_string()))
}

/// What stands before, in and behind the dictionary of the variables.
fn parts(plist: &str) -> Option<(&str, &str, &str)> {
    const OPEN: &str = "<key>EnvironmentVariables</key>\n  <dict>\n";
    let begin = plist.find(OPEN)? + OPEN.len();
    let end = begin + plist[begin..].find("  </dict>")?;
    Some((&plist[..begin], &plist[begin..end], &plist[end..]))
}

/// Keys and strings of a flat dictionary, the values escaped as they stand.
fn pairs(dictionary: &str) -> Variables {
    let mut pairs = Variables::new();
    let mut rest = dictionary;
    while let Some((name, after)) = between(rest, "<key>", "</key>") {
        let Some((value, after)) = between(after, "<string>", "</string>") else { break };
        pairs.push((unescaped(name), value.to_owned()));
        rest = after;
    }
    pairs
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(open)?.1.split_once(close)
}

/// Character data of XML 1.0.
fn escaped(text: &str) -> Result<String, String> {
    if text.chars().any(|char| char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}')) {
        return Err(format!("a property list cannot hold the control character in {text:?}"));
    }
    Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// The program of a property list that [`render`] made.
pub(super) fn program(plist: &str) -> Option<String> {
    let (_, arguments) = plist.split_once("<key>ProgramArguments</key>")?;
    between(arguments, "<string>", "</string>").map(|(program, _)| unescaped(program))
}

/// The variables of a property list that [`render`] made.
pub(super) fn variables(plist: &str) -> Variables {
    let dictionary = parts(plist).map_or("", |(_, dictionary, _)| dictionary);
    pairs(dictionary).into_iter().map(|(name, value)| (name, unescaped(&value))).collect()
}
