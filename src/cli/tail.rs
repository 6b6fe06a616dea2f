//! `codexd tail`: the events as they happen.

use std::io::{self, BufWriter, Stdout, Write};
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use super::events::{Events, Heard};
use super::low::PeopleArgs;
use super::print;
use super::reach::{self, Problem};
use super::render::{Renderer, wants_colour};
use crate::api_client::ClientError;
use crate::config::Config;
use crate::model::event::Event;
use crate::os;

/// How often a silent stream is left for a look at whether anybody still reads.
const LOOK: Duration = Duration::from_secs(1);

/// Shows events until nobody reads them, or until it is interrupted. Fails when the daemon is not there at the
/// beginning, or refuses; one that goes away later is waited for.
pub fn run(config: &Config, args: &PeopleArgs, json: bool) -> ExitCode {
    match tail(config, args, json) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads any more: that is how a tail ends.
        Err(Problem::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(problem) => problem.complain(),
    }
}

fn tail(config: &Config, args: &PeopleArgs, json: bool) -> Result<(), Problem> {
    let types = args.types.iter().map(|prefix| ("type", prefix.trim()));
    let session = args.session.iter().map(|id| ("sessionId", id.as_str()));
    let filters: Vec<(&str, &str)> = types.chain(session).collect();
    let mut events = Events::open(config, &filters, args.after)?;
    if let Some(id) = &args.session {
        // Of one that there is not, nothing would ever come.
        let path = format!("/v1/codexd/sessions/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
        if let Err(refused @ ClientError::Refused { status: 404, .. }) = reach::client(config)?.get(&path) {
            return Err(refused.into());
        }
    }
    let stdout = BufWriter::new(io::stdout());
    let mut output = if json {
        Output::Raw(stdout)
    } else {
        Output::Lines(Box::new(Renderer::new(stdout, wants_colour())))
    };
    // The past is written in large pieces, the present at once.
    let mut live = false;
    loop {
        match events.next(LOOK)? {
            Heard::Event(event) => output.event(&event)?,
            Heard::Gap(from, to) => {
                output.note(&format!("the log no longer has the events {from} to {to}"))?
            }
            Heard::Synced => {
                live = true;
                output.flush()?;
            }
            Heard::Rewound(seq) => {
                output.note(&format!("the log ends at {seq} now, it is another one; going on from there"))?;
                live = true;
            }
            Heard::Lost(error) => {
                output.note(&format!("{error}; waiting for codexd to come back"))?;
                output.flush()?;
                live = false;
            }
            Heard::Back => output.note("codexd is back")?,
            Heard::Silence => {
                output.idle()?;
                if os::reader_is_gone(&io::stdout()) {
                    return Ok(());
                }
            }
        }
        if live {
            output.flush()?;
        }
    }
}

enum Output {
    Raw(BufWriter<Stdout>),
    Lines(Box<Renderer<BufWriter<Stdout>>>),
}

impl Output {
    fn event(&mut self, event: &RawValue) -> Result<(), Problem> {
        match self {
            Self::Raw(stdout) => writeln!(stdout, "{}", print::json_to_show(event.get())),
            Self::Lines(renderer) => {
                let event: Event = serde_json::from_str(event.get())
                    .map_err(|error| Problem::here(format!("an event that is none: {error}")))?;
                renderer.event(&event)
            }
        }
        .map_err(Problem::Output)
    }

    /// About the stream itself: between the lines for people, on standard error beside JSON.
    fn note(&mut self, note: &str) -> Result<(), Problem> {
        match self {
            Self::Raw(_) => {
                print::complain(note);
                Ok(())
            }
            Self::Lines(renderer) => renderer.note(note).map_err(Problem::Output),
        }
    }

    fn idle(&mut self) -> Result<(), Problem> {
        if let Self::Lines(renderer) = self {
            renderer.idle().map_err(Problem::Output)?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Problem> {
        match self {
            Self::Raw(stdout) => stdout.flush(),
            Self::Lines(renderer) => renderer.flush(),
        }
        .map_err(Problem::Output)
    }
}
