//! Makes gVisor type Ctrl-C, Ctrl-\ and Ctrl-Z where a program wants them typed.
//!
//! A program that draws its own screen switches the terminal's signals off (`ISIG`) and takes these
//! keys as keys. gVisor's line discipline (seen in 20240729) sends the signals all the same, and the
//! program dies of a key stroke. So while such keys are written and `ISIG` is off, the characters
//! that mean signals are others. Only for keys: what a full queue holds back is looked at later, so
//! a large binary paste into a raw terminal is beyond this cure.

use std::os::fd::BorrowedFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::job::SIGNALS;

/// Until it is dropped, keys are not signals.
pub(super) struct Literal<'fd> {
    pty: BorrowedFd<'fd>,
    before: Termios,
    unused: u8,
}

/// `Some` if the program wants these few keys typed, some of which gVisor would not type.
pub(super) fn keys<'fd>(pty: BorrowedFd<'fd>, keys: &[u8]) -> Option<Literal<'fd>> {
    let before = tcgetattr(pty).ok()?;
    if before.local_modes.contains(LocalModes::ISIG) {
        return None;
    }
    // Fewer keys than values: one is left.
    let unused = (0x80..=0xff).find(|value| !keys.contains(value))?;
    let mut changed = before.clone();
    for code in SIGNALS {
        changed.special_codes[code] = unused;
    }
    tcsetattr(pty, OptionalActions::Now, &changed).ok()?;
    Some(Literal {
        pty,
        before,
        unused,
    })
}

impl Drop for Literal<'_> {
    fn drop(&mut self) {
        // What the program may have changed meanwhile stays.
        let Ok(mut now) = tcgetattr(self.pty) else {
            return;
        };
        for code in SIGNALS {
            if now.special_codes[code] == self.unused {
                now.special_codes[code] = self.before.special_codes[code];
            }
        }
        let _ = tcsetattr(self.pty, OptionalActions::Now, &now);
    }
}
