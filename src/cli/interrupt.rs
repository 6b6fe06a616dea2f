//! Ctrl-C for an action that waits for something the daemon does.

use std::io;

use crossbeam_channel::{Sender, bounded, select};
use log::warn;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::threads::{self, Thread};

/// Hands the first SIGINT or SIGTERM to a function; a second one ends this process, whether that function has returned
/// or not, and so does the first when the function returns `false`. Dropping it ends the watch, after the function.
pub struct OnInterrupt(Option<Watch>);

struct Watch {
    /// Dropped to end `first`, once it has nothing to do.
    stop: Sender<()>,
    first: Thread,
    handle: Handle,
    signals: Thread,
}

impl OnInterrupt {
    /// Watches, in threads of its own. `first` is called at most once, and may take its time.
    pub fn watch(first: impl FnOnce() -> bool + Send + 'static) -> Self {
        match Watch::start(first) {
            Ok(watch) => Self(Some(watch)),
            Err(error) => {
                warn!("Ctrl-C will only end this command, not what it waits for: {error}");
                Self(None)
            }
        }
    }
}

impl Watch {
    fn start(first: impl FnOnce() -> bool + Send + 'static) -> io::Result<Self> {
        // First: what has been made by then is waited for when something fails, and would wait for the channels below.
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (sender, came) = bounded(1);
        let (stop, stopped) = bounded::<()>(0);
        let first = threads::spawn_contained("interrupt", move || {
            select! {
                recv(came) -> signal => if let Ok(signal) = signal && !first() {
                    as_if_unwatched(signal);
                },
                recv(stopped) -> _ => {}
            }
        })?;
        let handle = signals.handle();
        let signals = threads::spawn_contained("signals", move || {
            let mut signals = signals.forever();
            if let Some(signal) = signals.next() {
                // There is room for one, and there is one.
                let _ = sender.try_send(signal);
            }
            if let Some(second) = signals.next() {
                as_if_unwatched(second);
            }
        })?;
        Ok(Self { stop, first, handle, signals })
    }
}

/// What the signal does to a process that does not watch for it.
fn as_if_unwatched(signal: i32) {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

impl Drop for OnInterrupt {
    fn drop(&mut self) {
        let Some(Watch { stop, first, handle, signals }) = self.0.take() else { return };
        drop(stop);
        // Until it has ended, Ctrl-C still leaves.
        first.join();
        handle.close();
        signals.join();
    }
}
