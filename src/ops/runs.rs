//! Runs: one-shot `codex exec` for an orchestrator.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::body::{Body, Kind, wrong};
use super::idempotency::Key;
use super::query::Query;
use super::{OpError, Ops};
use crate::exec::pool::Refused;
use crate::exec::{DEFAULT_TIMEOUT, Failure, FailureCode, Outcome, Task, pool};
use crate::hub::Core;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::EventType;
use crate::model::record::{Extra, Run, RunStatus};
use crate::{clock, ids, model};

/// The purposes a run may have over the API.
pub const PURPOSES: &[(&str, &str)] =
    &[("smoke", "smoke"), ("simple-worker", "simple-worker"), ("fallback-worker", "fallback-worker")];
const DEFAULT_PURPOSE: &str = "fallback-worker";
/// Codex's sandboxes.
pub const SANDBOXES: &[(&str, &str)] = &[
    ("read-only", "read-only"),
    ("workspace-write", "workspace-write"),
    ("danger-full-access", "danger-full-access"),
];
const ADAPTER: &str = "codex-exec";
/// Seconds after which a refused run is worth another try.
const RETRY_AFTER: u32 = 5;

/// A run, and whether it is new.
#[derive(Debug, Clone)]
pub struct Created {
    /// The run.
    pub run: Arc<Run>,
    /// False when an idempotency key named one that exists.
    pub new: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queued<'a> {
    cwd: Option<&'a str>,
    purpose: Option<&'a str>,
    record: &'a Run,
    run_id: &'a str,
    session_id: Option<&'a str>,
}

impl Ops {
    /// The runs that fit `status`, `limit` and `after`, in order of creation.
    ///
    /// # Errors
    /// For a wrong parameter.
    pub fn runs(&self, query: &Query<'_>) -> Result<Vec<Arc<Run>>, OpError> {
        let status = query.one_of("status", RunStatus::ALL)?;
        let page = query.page()?;
        let all = self.hub.ask(|core| core.state().runs.all().to_vec())?;
        page.take(&all, |run| &run.run_id, |run| status.is_none_or(|status| run.status == status))
    }

    /// One run.
    ///
    /// # Errors
    /// [`OpError::NotFound`].
    pub fn run(&self, id: &str) -> Result<Arc<Run>, OpError> {
        let wanted = id.to_owned();
        self.hub
            .ask(move |core| core.state().runs.get(&wanted).cloned())?
            .ok_or_else(|| OpError::NotFound(format!("Unknown run {}.", model::preview(id))))
    }

    /// Records a run and puts it in the queue.
    ///
    /// # Errors
    /// For a wrong field, an unknown session, a full queue, a log that takes nothing.
    pub fn create_run(&self, body: &Body, key: Option<Key>) -> Result<Created, OpError> {
        let (task, record) = self.task(body)?;
        if let Some(session) = &record.session_id {
            self.session(session)?;
        }
        self.check_log()?;
        // A repeat needs no place in the queue.
        if let Some(key) = &key {
            let key = key.clone();
            if let Some(run) = self.hub.ask(move |core| known(core, &key))?? {
                return Ok(Created { run, new: false });
            }
        }
        self.check_taking_work()?;
        let admission = self.runs.admit().map_err(refused)?;
        self.hub.transact_then(
            move |core, drafts| {
                if let Some(key) = &key
                    && let Some(run) = known(core, key)?
                {
                    return Ok((Created { run, new: false }, None));
                }
                let run = Arc::new(Run { idempotency: key.map(Key::record), ..record });
                draft_queued(drafts, &run);
                Ok((Created { run, new: true }, Some((admission, task))))
            },
            // What is recorded runs, even if whoever asked has given up waiting for the log.
            |recorded: Result<_, OpError>| {
                recorded.map(|(created, entry)| {
                    if let Some((admission, task)) = entry {
                        admission.enter(task);
                    }
                    created
                })
            },
        )?
    }

    /// Ends a run. Returns it, and whether it was still to be ended.
    ///
    /// # Errors
    /// [`OpError::NotFound`]; a log that takes nothing.
    pub fn cancel_run(&self, id: &str) -> Result<(Arc<Run>, bool), OpError> {
        let run = self.run(id)?;
        if matches!(run.status, RunStatus::Completed | RunStatus::Failed) {
            return Ok((run, false));
        }
        self.check_log()?;
        let cancelled = self.runs.cancel(id);
        Ok((self.run(id)?, cancelled))
    }

    /// The checked task and the record it begins with.
    fn task(&self, body: &Body) -> Result<(Task, Run), OpError> {
        let prompt = body.required_text("prompt")?;
        if prompt == "-" {
            return Err(wrong("prompt", "something to do; \"-\" alone means standard input to Codex"));
        }
        let purpose = body.one_of("purpose", PURPOSES)?.unwrap_or(DEFAULT_PURPOSE);
        let cwd = body.text("cwd")?;
        let millis = body.number("timeoutMs", 1)?;
        let output_schema = body.passed_on("outputSchema", Kind::Object)?;
        let run_id = ids::record_id("run");
        let root = &self.config.paths.repo_root;
        let task = Task {
            run_id: run_id.clone(),
            purpose: purpose.to_owned(),
            cwd: cwd.as_ref().map_or_else(|| root.clone(), |cwd| root.join(Path::new(cwd))),
            model: body.text("model")?,
            profile: body.text("profile")?,
            sandbox: body.one_of("sandbox", SANDBOXES)?.map(str::to_owned),
            config: body.texts("config")?,
            additional_writable_directories: body.texts("additionalWritableDirectories")?,
            images: body.texts("images")?,
            env: environment(body)?,
            skip_git_repo_check: body.flag("skipGitRepoCheck")?.unwrap_or(false),
            json: body.flag("json")?.unwrap_or(false),
            ephemeral: body.flag("ephemeral")?.unwrap_or(false),
            output_schema,
            timeout: millis.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
            prompt: prompt.clone(),
        };
        let session_id = body.text("sessionId")?;
        let metadata = body.metadata()?;
        check_no_nul(&task, cwd.as_deref(), session_id.as_deref(), &metadata)?;
        let now = clock::now_iso();
        let record = Run {
            run_id,
            session_id,
            status: RunStatus::Queued,
            adapter: ADAPTER.to_owned(),
            prompt,
            purpose: Some(purpose.to_owned()),
            cwd,
            created_at: now.clone(),
            updated_at: now,
            started_at: None,
            finished_at: None,
            error: None,
            summary: None,
            metadata,
            result: None,
            idempotency: None,
            extra: Extra::new(),
        };
        Ok((task, record))
    }
}

/// The run that this key named before, if any.
fn known(core: &Core, key: &Key) -> Result<Option<Arc<Run>>, OpError> {
    key.made(core.state().runs.by_key(key.name()))
}

fn refused(refused: Refused) -> OpError {
    match refused {
        Refused::Full { .. } => {
            OpError::TooManyRuns { reason: format!("{refused}."), retry_after: RETRY_AFTER }
        }
        Refused::NoThread(_) => {
            OpError::Unavailable { reason: format!("{refused}."), retry_after: Some(RETRY_AFTER) }
        }
        Refused::Stopping => OpError::Unavailable { reason: refused.to_string(), retry_after: None },
    }
}

fn draft_queued(drafts: &mut Drafts, run: &Arc<Run>) {
    let session_id = run.session_id.as_deref();
    drafts.push(
        EventType::RunQueued,
        format_args!("Queued run {}.", run.run_id),
        Some(&Queued {
            cwd: run.cwd.as_deref(),
            purpose: run.purpose.as_deref(),
            record: run,
            run_id: &run.run_id,
            session_id,
        }),
        Subject::run(&run.run_id, session_id),
        Some(Change::Run(Arc::clone(run))),
    );
}

/// Runs that an earlier life of the daemon left queued or running.
pub fn interrupted_by_a_crash(core: &mut Core, drafts: &mut Drafts) {
    let left: Vec<String> = core
        .state()
        .runs
        .all()
        .iter()
        .filter(|run| matches!(run.status, RunStatus::Queued | RunStatus::Running))
        .map(|run| run.run_id.clone())
        .collect();
    let failure = Failure::new(FailureCode::Interrupted, "codexd was cut off before the run ended.");
    let outcome = Outcome::failed(failure);
    for id in left {
        pool::draft_finished(core, drafts, &id, &outcome);
    }
}

/// `env`: strings by name; null removes a variable.
fn environment(body: &Body) -> Result<BTreeMap<String, Option<String>>, OpError> {
    let env: BTreeMap<String, Option<String>> = body.value("env", Kind::TextsOrNulls)?.unwrap_or_default();
    match env.keys().find(|name| name.is_empty() || name.contains('=')) {
        Some(name) => {
            Err(wrong("env", &format!("an object of variables: \"{}\" is no name", model::preview(name))))
        }
        None => Ok(env),
    }
}

/// A NUL byte can be in no argument, path or variable (execve(2)), and is of no use anywhere else.
fn check_no_nul(
    task: &Task,
    cwd: Option<&str>,
    session_id: Option<&str>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), OpError> {
    let text = |value: &str| value.contains('\0');
    let some = |value: Option<&str>| value.is_some_and(text);
    let list = |values: &[String]| values.iter().any(|value| text(value));
    let fields = [
        ("prompt", text(&task.prompt)),
        ("cwd", some(cwd)),
        ("model", some(task.model.as_deref())),
        ("profile", some(task.profile.as_deref())),
        ("config", list(&task.config)),
        ("additionalWritableDirectories", list(&task.additional_writable_directories)),
        ("images", list(&task.images)),
        ("env", task.env.iter().any(|(name, value)| text(name) || some(value.as_deref()))),
        ("sessionId", some(session_id)),
        ("metadata", metadata.iter().any(|(name, value)| text(name) || text(value))),
    ];
    match fields.iter().find(|(_, found)| *found) {
        Some((name, _)) => Err(wrong(name, "free of NUL characters")),
        None => Ok(()),
    }
}
