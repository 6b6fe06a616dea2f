//! Ctrl-C for an action that waits for something the daemon does.

use log::warn;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::threads::{self, Thread};

/// Hands the first SIGINT or SIGTERM to a function; what follows ends this process, and so does the first when the
/// function returns `false`. Dropping it ends the watch.
pub struct OnInterrupt {
    handle: Option<Handle>,
    thread: Option<Thread>,
}

impl OnInterrupt {
    /// Watches, in a thread of its own. `first` is called at most once.
    pub fn watch(mut first: impl FnMut() -> bool + Send + 'static) -> Self {
        let watched = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
            let handle = signals.handle();
            let thread = threads::spawn_contained("signals", move || {
                for (count, signal) in signals.forever().enumerate() {
                    if count > 0 || !first() {
                        // What the signal does to a process that does not watch for it.
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                }
            })?;
            Ok((handle, thread))
        });
        match watched {
            Ok((handle, thread)) => Self { handle: Some(handle), thread: Some(thread) },
            Err(error) => {
                warn!("Ctrl-C will only end this command, not what it waits for: {error}");
                Self { handle: None, thread: None }
            }
        }
    }
}

impl Drop for OnInterrupt {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.close();
        }
        drop(self.thread.take());
    }
}
