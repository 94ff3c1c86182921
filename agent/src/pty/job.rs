//! What gVisor's terminals (seen in 20240729) do not do for the programs at them, and Linux's do: tell
//! them of a new size, and let a Ctrl-C through that stands behind lines which nobody has read.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr, tcgetpgrp};

use super::slave;
use crate::proc;

/// Most lines that one Ctrl-C drops: a moment's work, and more than anybody types ahead.
const MAX_LINES: usize = 4096;

/// The keys that mean a signal, as a terminal knows them.
pub(super) const SIGNALS: [SpecialCodeIndex; 3] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VSUSP,
];

/// The last of these keys that usually means a signal, if one does.
pub(super) fn signal(keys: &[u8]) -> Option<usize> {
    keys.iter().rposition(|b| matches!(b, 0x03 | 0x1a | 0x1c))
}

/// Whether the kernel leaves it to us. gVisor's does not say who is in the foreground.
fn is_ours(pty: BorrowedFd<'_>) -> bool {
    tcgetpgrp(pty) == Err(Errno::NOTTY)
}

/// The PTY has a new size: tell every process of the session, for we do not know which are in the
/// foreground. Who does not wait for this signal does not notice it.
pub(super) fn resized(pty: BorrowedFd<'_>, session: Pid) {
    if !is_ours(pty) {
        return;
    }
    let session = session.as_raw_nonzero().get();
    for process in proc::processes().filter(|process| process.session() == session) {
        let _ = kill_process(process.pid, Signal::WINCH);
    }
}

/// This key was typed. If it means a signal, drop what was typed before it and not read, which on Linux
/// goes with the signal. gVisor looks at a line only when the one before it has been read, and with this
/// at the key. Not if the program wants to keep it (`NOFLSH`).
pub(super) fn typed(pty: BorrowedFd<'_>, key: u8) {
    let Ok(now) = tcgetattr(pty) else { return };
    let signals = now.local_modes.contains(LocalModes::ISIG)
        && SIGNALS.iter().any(|code| now.special_codes[*code] == key);
    if !signals || now.local_modes.contains(LocalModes::NOFLSH) || !is_ours(pty) {
        return;
    }
    let Ok(slave) = slave(pty) else { return };
    let mut line = [0; 4096];
    for _ in 0..MAX_LINES {
        if !matches!(ioctl_fionread(&slave), Ok(1..)) {
            return;
        }
        if !matches!(rustix::io::read(&slave, &mut line), Ok(1..)) {
            return;
        }
    }
}
