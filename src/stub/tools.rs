//! Commands and file changes: nothing is run and no file is touched, only the messages are those of Codex.

use super::approvals::{APPROVAL, Decision};
use super::shapes::now_ms;
use super::state::lock;
use super::turn::{Stop, Turn};
use serde_json::{Value, json};

/// What becomes of an item, and what the model is told.
struct Outcome {
    status: &'static str,
    told: String,
    cancel: bool,
}

/// A commandExecution item.
struct Command {
    id: String,
    command: String,
    at: u64,
    request: Option<u64>,
}

impl Command {
    fn shell(&self) -> String {
        format!("/bin/bash -lc '{}'", self.command)
    }

    fn actions(&self) -> Value {
        json!([{"type": "unknown", "command": self.command}])
    }

    fn json(&self, cwd: &str, status: &str, output: Option<&str>) -> Value {
        let ran = output.is_some();
        let completed = (status != "inProgress").then(now_ms);
        json!({"type": "commandExecution", "id": self.id, "pluginId": null, "scriptPath": null,
            "command": self.shell(), "cwd": cwd, "processId": ran.then_some("4242"),
            "source": if ran { "unifiedExecStartup" } else { "agent" }, "status": status,
            "commandActions": self.actions(), "aggregatedOutput": output, "exitCode": ran.then_some(0),
            "durationMs": ran.then(|| now_ms().saturating_sub(self.at)), "startedAtMs": self.at, "completedAtMs": completed})
    }
}

impl Turn {
    /// `run: CMD`, and `run2: CMD && CMD` with both approvals pending at once.
    pub(super) fn run_commands(&mut self, commands: &[String]) -> Result<(), Stop> {
        let mut pending = Vec::new();
        let mut told = Vec::new();
        let mut allowed = Vec::new();
        for command in commands {
            let id = format!("call_{}_0", self.shared.item_number());
            let mut command = Command { id, command: command.clone(), at: now_ms(), request: None };
            if self.must_ask(&command.command) {
                command.request = Some(self.reserve_request(Some(APPROVAL)));
                self.report_flags()?;
            }
            self.item_started(&command.json(&self.thread.cwd, "inProgress", None), command.at)?;
            match command.request {
                Some(request) => {
                    self.request_command(request, &command)?;
                    pending.push(command);
                }
                None => allowed.push(command),
            }
        }
        for command in allowed {
            told.push(self.pretend(&command)?);
        }
        while !pending.is_empty() {
            let (request, answer) = self.next_answer()?;
            let Some(index) = pending.iter().position(|command| command.request == Some(request)) else {
                continue;
            };
            let command = pending.remove(index);
            let decision = Decision::read(&answer);
            if matches!(decision, Decision::Accept | Decision::AcceptForSession) {
                if decision == Decision::AcceptForSession {
                    lock(&self.thread.state).allowed.insert(command.command.clone());
                }
                self.report_flags()?;
                told.push(self.pretend(&command)?);
                continue;
            }
            let outcome = refusal(decision);
            self.item_completed(command.json(&self.thread.cwd, outcome.status, None))?;
            self.report_flags()?;
            if outcome.cancel {
                self.used()?;
                return Err(Stop::Interrupted);
            }
            told.push(outcome.told);
        }
        self.used()?;
        self.say_done(&told.join("\n"))
    }

    fn request_command(&self, request: u64, command: &Command) -> Result<(), Stop> {
        let words: Vec<&str> = command.command.split(' ').take(2).collect();
        let amendment = json!({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": words}});
        let params = json!({"kind": "command", "threadId": self.thread.id, "turnId": self.id,
            "itemId": command.id, "startedAtMs": command.at, "environmentId": "local",
            "command": command.shell(), "cwd": self.thread.cwd, "commandActions": command.actions(),
            "proposedExecpolicyAmendment": words, "availableDecisions": ["accept", amendment, "cancel"]});
        Ok(self.shared.out.request(request, "item/commandExecution/requestApproval", &params.to_string())?)
    }

    /// The messages of a command that succeeds.
    fn pretend(&mut self, command: &Command) -> Result<String, Stop> {
        let output = format!("ran: {}\n", command.command);
        let params =
            json!({"threadId": self.thread.id, "turnId": self.id, "itemId": command.id, "delta": output});
        self.notify("item/commandExecution/outputDelta", &params)?;
        self.item_completed(command.json(&self.thread.cwd, "completed", Some(&output)))?;
        Ok(format!("Process exited with code 0\nOutput:\n{output}"))
    }

    /// `patch: FILE TEXT`.
    pub(super) fn patch(&mut self, file: &str, text: &str) -> Result<(), Stop> {
        let (id, at) = (format!("call_{}_0", self.shared.item_number()), now_ms());
        let path = std::path::Path::new(&self.thread.cwd).join(file).to_string_lossy().into_owned();
        let item = |status: &str| {
            let change = json!({"path": path, "kind": {"type": "add"}, "diff": format!("{text}\n")});
            json!({"type": "fileChange", "id": id, "changes": [change], "status": status, "startedAtMs": at,
                "completedAtMs": (status != "inProgress").then(now_ms)})
        };
        self.item_started(&item("inProgress"), at)?;
        let mut decision = Decision::Accept;
        if self.must_ask(&path) {
            let request = self.reserve_request(Some(APPROVAL));
            self.report_flags()?;
            let params = json!({"threadId": self.thread.id, "turnId": self.id, "itemId": id,
                "startedAtMs": now_ms(), "reason": null, "grantRoot": null});
            self.shared.out.request(request, "item/fileChange/requestApproval", &params.to_string())?;
            decision = Decision::read(&self.next_answer()?.1);
            self.report_flags()?;
        }
        let told = match decision {
            Decision::Cancel => {
                // The item stays open for good: so it was with the real Codex.
                self.used()?;
                return Err(Stop::Interrupted);
            }
            Decision::Decline | Decision::Bad => {
                self.item_completed(item("declined"))?;
                "patch rejected by user".to_owned()
            }
            Decision::Accept | Decision::AcceptForSession => {
                if decision == Decision::AcceptForSession {
                    lock(&self.thread.state).allowed.insert(path.clone());
                }
                self.item_completed(item("completed"))?;
                let hunk = format!("--- /dev/null\n+++ b/{file}\n@@ -0,0 +1 @@\n+{text}\n");
                self.diff = Some(format!("diff --git a/{file} b/{file}\nnew file mode 100644\n{hunk}"));
                self.report_diff()?;
                format!("Exit code: 0\nOutput:\nSuccess. Updated the following files:\nA {file}\n")
            }
        };
        self.used()?;
        self.say_done(&told)
    }
}

fn refusal(decision: Decision) -> Outcome {
    let failed =
        |why: &str| format!("exec_command failed: CreateProcess {{ message: \"Rejected(\\\"{why}\\\")\" }}");
    match decision {
        Decision::Bad => Outcome { status: "failed", told: failed("approval request failed"), cancel: false },
        _ => Outcome {
            status: "declined",
            told: failed("rejected by user"),
            cancel: decision == Decision::Cancel,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_meanwhile_makes_a_command_short() {
        let at = now_ms() + 3_600_000;
        let command = Command { id: "call_1_0".to_owned(), command: "ls".to_owned(), at, request: None };
        assert_eq!(command.json("/", "completed", Some("ran: ls"))["durationMs"], 0);
    }
}
