//! Waiting at descriptors, with an end to it: poll(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

/// Waits for input; `false` when the other end of `cancel` is gone.
///
/// # Errors
/// What poll(2) says.
pub fn ready(input: &impl AsFd, cancel: &OwnedFd) -> io::Result<bool> {
    wait_for(PollFlags::IN, input, cancel)
}

/// Writes everything to a descriptor that does not wait (see [`dont_wait`]), waiting for room here; `false` when the
/// other end of `cancel` was gone before there was any.
///
/// # Errors
/// What write(2) or poll(2) says.
pub fn write_all(output: &impl AsFd, mut bytes: &[u8], cancel: &OwnedFd) -> io::Result<bool> {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                if !wait_for(PollFlags::OUT, output, cancel)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Makes reading from a descriptor and writing to it fail with `EAGAIN` where they would wait.
///
/// # Errors
/// What ioctl(2) says.
pub fn dont_wait(fd: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// Waits until a descriptor is ready for `what`, or has failed; `false` when the other end of `cancel` is gone.
fn wait_for(what: PollFlags, fd: &impl AsFd, cancel: &OwnedFd) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(fd, what), PollFd::new(cancel, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
    }
}

/// Whether reading would not wait now.
///
/// # Errors
/// What poll(2) says.
pub fn readable(input: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(input, PollFlags::IN)];
    // A signal that is about to be delivered interrupts even a poll that does not wait.
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&rustix::event::Timespec::default())))?;
    Ok(!fds[0].revents().is_empty())
}

/// Whether this is a pipe or a socket that nobody reads any more.
pub fn reader_is_gone(output: &impl AsFd) -> bool {
    // Asked for nothing at all, macOS looks at nothing, not even whether the other end is there.
    let mut fds = [PollFd::new(output, PollFlags::OUT)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&rustix::event::Timespec::default()))).is_ok()
        && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_shows_whether_there_is_room_or_not() {
        for full in [false, true] {
            let (reader, writer) = crate::os::pipe().unwrap();
            dont_wait(&writer).unwrap();
            while full && rustix::io::write(&writer, &[0; 4096]).is_ok() {}
            assert!(!reader_is_gone(&writer));
            drop(reader);
            assert!(reader_is_gone(&writer));
        }
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!reader_is_gone(&writer));
        drop(reader);
        assert!(reader_is_gone(&writer));
    }
}
