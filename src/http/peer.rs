//! Which users of this host may ask: the daemon's own and root. Whoever may send a request here runs code as this user.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::guard::PeerCheck;
use super::reply::ApiError;
use crate::os::peer::{self, Owner};

const ROOT: u32 = 0;

/// Lets connections pass whose other end was made by `own` or by root.
pub fn check(own: u32) -> PeerCheck {
    let refused = AtomicU64::new(0);
    Arc::new(move |theirs, ours| match peer::owner(theirs, ours) {
        Ok(owner) => judge(owner, own).inspect_err(|_| {
            // Not a line each: who is refused must not fill the disk either.
            let count = refused.fetch_add(1, Ordering::Relaxed) + 1;
            if let (Some(Owner { uid, .. }), true) = (owner, count.is_power_of_two()) {
                log::warn!("refused {count} connections of other users so far, this one of uid {uid}");
            }
        }),
        Err(error) => {
            log::debug!("the user at {theirs} cannot be told: {error}");
            Err(ApiError::unavailable("It cannot be told which user asks; try again.").with_retry_after(1))
        }
    })
}

fn judge(owner: Option<Owner>, own: u32) -> Result<(), ApiError> {
    match owner {
        Some(Owner { uid, held: true }) if uid == own || uid == ROOT => Ok(()),
        // Older kernels say of a socket nobody holds any more that it is root's: whose it was cannot be told.
        Some(Owner { uid, held: false }) if uid == own && uid != ROOT => Ok(()),
        Some(Owner { uid, .. }) if uid != own && uid != ROOT => {
            Err(ApiError::forbidden_peer("Requests of other users of this host are refused."))
        }
        _ => Err(ApiError::forbidden_peer(
            "The connection was closed before it could be told which user asks.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_passes() {
        let status = |owner, own| judge(owner, own).map_or_else(|error| error.code.status(), |()| 200);
        let owner = |uid, held| Some(Owner { uid, held });
        for (found, own, expected) in [
            (owner(1000, true), 1000, 200),
            (owner(0, true), 1000, 200),
            (owner(0, true), 0, 200),
            (owner(1001, true), 1000, 403),
            (owner(1001, true), 0, 403),
            (owner(1000, false), 1000, 200),
            (owner(0, false), 1000, 403),
            (owner(0, false), 0, 403),
            (owner(1001, false), 1000, 403),
            (None, 1000, 403),
        ] {
            assert_eq!(status(found, own), expected, "{found:?} for {own}");
        }
    }
}
