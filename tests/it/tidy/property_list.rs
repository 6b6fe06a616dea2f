//! The template for launchd is a whole property list, and what it sets is what codexd reads.

use std::path::Path;

use codexd::cli::flags::FLAGS;

use super::read;

/// Keys and values of a property list, in order; an error for XML that is not well-formed (as far as these files go).
fn elements(xml: &str) -> Result<Vec<(String, String)>, String> {
    let mut rest =
        xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").ok_or("no XML declaration")?;
    let (mut open, mut found) = (Vec::new(), Vec::new());
    let mut roots = 0;
    while let Some(begin) = rest.find('<') {
        let text = rest[..begin].trim();
        if text.contains('>') || (text.contains('&') && !text.contains("&amp;")) {
            return Err(format!("text {text:?} is not escaped"));
        }
        rest = &rest[begin..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            let end = comment.find("--").ok_or("a comment is open")?;
            rest = comment[end..].strip_prefix("-->").ok_or("two hyphens in a comment")?;
            continue;
        }
        let end = rest.find('>').ok_or("a tag is open")?;
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        } else if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            found.push((name.to_owned(), text.to_owned()));
        } else {
            roots += usize::from(open.is_empty());
            match tag.strip_suffix('/') {
                Some(name) => found.push((name.to_owned(), String::new())),
                None => open.push(tag.split(' ').next().unwrap_or_default()),
            }
        }
    }
    match (open.last(), roots, rest.trim()) {
        (None, 1, "") => Ok(found),
        (open, roots, rest) => Err(format!("open: {open:?}, {roots} roots, at the end {rest:?}")),
    }
}

#[test]
fn the_launchd_template_is_whole() {
    let label = "so.makefile.baa-codexd";
    let template = read(&format!("ops/launchd/{label}.plist"));
    let filled = ["HOME", "REPO_ROOT", "CODEXD", "STOP_SECONDS"].iter().fold(template, |text, name| {
        assert!(text.contains(&format!("__{name}__")), "the template has __{name}__");
        text.replace(&format!("__{name}__"), &format!("/tmp/{}", name.to_lowercase()))
    });
    assert!(!filled.contains("__"), "a placeholder that the template does not explain");
    let elements = elements(&filled).unwrap();
    let after = |key: &str| {
        let at = elements.iter().position(|(tag, text)| tag == "key" && text == key);
        let (tag, text) = &elements[at.unwrap_or_else(|| panic!("no key {key}")) + 1];
        if text.is_empty() { tag.clone() } else { text.clone() }
    };
    for (key, value) in [
        ("Label", label),
        ("ProcessType", "Background"),
        ("RunAtLoad", "true"),
        ("KeepAlive", "true"),
        ("ThrottleInterval", "10"),
        ("StandardOutPath", "/tmp/repo_root/logs/launchd/so.makefile.baa-codexd.out.log"),
        ("StandardErrorPath", "/tmp/repo_root/logs/launchd/so.makefile.baa-codexd.err.log"),
    ] {
        assert_eq!(after(key), value, "{key}");
    }
    for folder in ["/opt/homebrew/bin", "/usr/local/bin", "/tmp/home/.local/bin"] {
        assert!(after("PATH").split(':').any(|entry| entry == folder), "PATH has {folder}");
    }
    let ours = elements.iter().filter(|(tag, text)| tag == "key" && text.starts_with("BAA_"));
    let ours: Vec<&str> = ours.map(|(_, text)| text.as_str()).collect();
    assert!(ours.len() >= 14, "{ours:?}");
    for name in &ours {
        assert!(FLAGS.iter().any(|flag| flag.env.contains(name)), "codexd reads no variable {name}");
    }
    let env = |name: &str| ours.contains(&name).then(|| after(name).into());
    let config = codexd::cli::config_of(&["start"], &env, Path::new("/")).unwrap().unwrap();
    assert_eq!(config.paths.repo_root, Path::new("/tmp/repo_root"));
}

#[test]
fn a_broken_property_list_is_found() {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
    assert!(elements(&format!("{head}<plist><!-- a --><key>a</key><true/></plist>\n")).is_ok());
    for wrong in ["<plist>", "<a></b>", "<a/><b/>", "<a><!-- --x --></a>", "<a>x & y</a>", "<a></a> x", "<a"]
    {
        assert!(elements(&format!("{head}{wrong}")).is_err(), "{wrong}");
    }
}
