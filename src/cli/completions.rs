//! Completions for bash, zsh and fish, made from the tables. They offer what the parser takes: an action once, its own
//! flags and those of all, the words a value or an operand is chosen from, files for paths.

use super::UsageError;
use super::flags::{ACTIONS, ActionRow, FLAGS, Flag, Operands, Update};
use crate::model::preview;

/// The shells, as the placeholder of `codexd completions`.
pub const SHELLS: &str = "bash|zsh|fish";

/// The script for that shell.
///
/// # Errors
/// When it is none of [`SHELLS`].
pub fn script(shell: &str) -> Result<String, UsageError> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        other => Err(UsageError::new(format!(
            "completions are for {}, not \"{}\"",
            SHELLS.replace('|', ", "),
            preview(other)
        ))),
    }
}

/// The words a placeholder stands for, if it lists them.
fn choices(placeholder: &str) -> Option<Vec<&str>> {
    placeholder.contains('|').then(|| placeholder.split('|').collect())
}

fn operands(row: &ActionRow) -> &'static [&'static str] {
    match row.operands {
        Operands::Words(words) => words,
        Operands::None | Operands::Raw => &[],
    }
}

/// Whether its value is a path.
fn is_path(flag: &Flag) -> bool {
    flag.value() == Some("PATH") || flag.value() == Some("CMD")
}

/// The flags for every action.
fn common() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(|flag| flag.actions.is_empty())
}

/// The flags of one action alone.
fn own(row: &ActionRow) -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(|flag| flag.actions.contains(&row.action))
}

fn dashed<'a>(flags: impl Iterator<Item = &'a Flag>) -> Vec<String> {
    flags.map(|flag| format!("--{}", flag.name)).collect()
}

/// Text within single quotes of a shell of sh's family.
fn quoted(text: &str) -> String {
    text.replace('\'', r"'\''")
}

/// Finds the action among the words before the cursor, for bash and zsh: `action` and, after it, `count` words.
fn find_action(words: &str) -> String {
    let valued = dashed(FLAGS.iter().filter(|flag| flag.value().is_some())).join("|");
    let actions: Vec<&str> = ACTIONS.iter().map(|row| row.name).collect();
    format!(
        "    local action= count=0 skip= word
    for word in {words}; do
        if [[ -n $skip ]]; then
            skip=
            continue
        fi
        case $word in
            {valued}) skip=1 ;;
            -*) ;;
            *)
                if [[ -n $action ]]; then
                    count=$((count + 1))
                else
                    case $word in
                        {actions}) action=$word ;;
                    esac
                fi
                ;;
        esac
    done
",
        actions = actions.join("|"),
    )
}

fn bash() -> String {
    let mut script =
        "# bash completion for codexd; made by: codexd completions bash\n_codexd() {\n".to_owned();
    // --flag=value comes as three words.
    script.push_str(
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags= choices=\n    \
         COMPREPLY=()\n    if [[ $cur == = ]]; then\n        cur=\n    elif [[ $prev == = ]]; then\n        \
         prev=${COMP_WORDS[COMP_CWORD-2]}\n    fi\n    case $prev in\n",
    );
    for flag in FLAGS {
        let Some(value) = flag.value() else { continue };
        let offer = match choices(value) {
            Some(words) => format!("COMPREPLY=($(compgen -W '{}' -- \"$cur\"))", words.join(" ")),
            None if is_path(flag) => {
                "compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -f -- \"$cur\"))".to_owned()
            }
            None => ":".to_owned(),
        };
        script.push_str(&format!("        --{}) {offer}; return ;;\n", flag.name));
    }
    script.push_str("    esac\n");
    script.push_str(&find_action("\"${COMP_WORDS[@]:1:COMP_CWORD-1}\""));
    script.push_str("    case $action in\n");
    let names: Vec<&str> = ACTIONS.iter().map(|row| row.name).collect();
    script.push_str(&format!("        '') choices='{}' ;;\n", names.join(" ")));
    for row in ACTIONS {
        script.push_str(&format!("        {}) flags='{}'", row.name, dashed(own(row)).join(" ")));
        for (at, words) in operands(row).iter().enumerate() {
            if let Some(words) = choices(words) {
                script.push_str(&format!("; [[ $count == {at} ]] && choices='{}'", words.join(" ")));
            }
        }
        script.push_str(" ;;\n");
    }
    script.push_str(&format!(
        "    esac\n    if [[ $cur == -* ]]; then\n        choices=\"{} --help $flags\"\n    fi\n    \
         COMPREPLY=($(compgen -W \"$choices\" -- \"$cur\"))\n}}\ncomplete -F _codexd codexd\n",
        dashed(common()).join(" ")
    ));
    script
}

/// A flag as `_arguments` of zsh wants it.
fn zsh_spec(flag: &Flag) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace([']', '['], "").replace(':', "\\:");
    let many = if matches!(flag.update, Update::Many(..)) { "*" } else { "" };
    let doc = escaped(flag.doc);
    let spec = match flag.value() {
        None => format!("--{}[{doc}]", flag.name),
        Some(value) => {
            let action = match choices(value) {
                Some(words) => format!("({})", words.join(" ")),
                None if is_path(flag) => "_files".to_owned(),
                None => " ".to_owned(),
            };
            let value = if value.contains('|') { "value" } else { value };
            format!("{many}--{}=[{doc}]:{value}:{action}", flag.name)
        }
    };
    format!("'{}'", quoted(&spec))
}

fn zsh() -> String {
    let mut script = "#compdef codexd\n# made by: codexd completions zsh\n_codexd() {\n".to_owned();
    script.push_str(&find_action("${words[2,CURRENT-1]}"));
    script.push_str("    local state\n    local -a specs actions\n    specs=(\n");
    for flag in common() {
        script.push_str(&format!("        {}\n", zsh_spec(flag)));
    }
    script.push_str("        '(- *)'{-h,--help}'[Show the help text]'\n        '(- *)-V[Show the version of this program]'\n    )\n    actions=(\n");
    for row in ACTIONS {
        script.push_str(&format!("        '{}:{}'\n", row.name, quoted(&row.doc.replace(':', "\\:"))));
    }
    script.push_str("    )\n    case $action in\n        '') specs+=('1:action:->action') ;;\n");
    for row in ACTIONS {
        script.push_str(&format!("        {})\n            specs+=('1:action:'", row.name));
        own(row).for_each(|flag| script.push_str(&format!(" {}", zsh_spec(flag))));
        for (at, words) in operands(row).iter().enumerate() {
            let (name, action) = match choices(words) {
                Some(choices) => ("word", format!("({})", choices.join(" "))),
                None => (*words, " ".to_owned()),
            };
            script.push_str(&format!(" '{}:{name}:{action}'", at + 2));
        }
        script.push_str(")\n            ;;\n");
    }
    script.push_str(
        "    esac\n    _arguments -S $specs && return\n    [[ $state == action ]] && _describe action actions\n}\n\
         if [[ $funcstack[1] == _codexd ]]; then\n    _codexd \"$@\"\nelse\n    compdef _codexd codexd\nfi\n",
    );
    script
}

fn fish() -> String {
    let text = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let names: Vec<&str> = ACTIONS.iter().map(|row| row.name).collect();
    let mut script = format!(
        "# fish completion for codexd; made by: codexd completions fish\ncomplete -c codexd -f\n\
         set -l actions {}\n",
        names.join(" ")
    );
    for row in ACTIONS {
        script.push_str(&format!(
            "complete -c codexd -n \"not __fish_seen_subcommand_from $actions\" -a {} -d '{}'\n",
            row.name,
            text(row.doc)
        ));
        for choices in operands(row).iter().filter_map(|words| choices(words)) {
            script.push_str(&format!(
                "complete -c codexd -n '__fish_seen_subcommand_from {}' -a '{}'\n",
                row.name,
                choices.join(" ")
            ));
        }
    }
    for flag in FLAGS {
        let of: Vec<&str> =
            ACTIONS.iter().filter(|row| flag.actions.contains(&row.action)).map(|row| row.name).collect();
        let condition = match of.is_empty() {
            true => String::new(),
            false => format!(" -n '__fish_seen_subcommand_from {}'", of.join(" ")),
        };
        let value = match flag.value() {
            None => String::new(),
            Some(value) => match choices(value) {
                Some(words) => format!(" -x -a '{}'", words.join(" ")),
                None if is_path(flag) => " -r -F".to_owned(),
                None => " -x".to_owned(),
            },
        };
        script.push_str(&format!(
            "complete -c codexd{condition} -l {}{value} -d '{}'\n",
            flag.name,
            text(flag.doc)
        ));
    }
    script.push_str("complete -c codexd -s h -l help -d 'Show the help text'\n");
    script.push_str("complete -c codexd -s V -d 'Show the version of this program'\n");
    script
}
