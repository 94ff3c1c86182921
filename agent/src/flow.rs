//! Flow control of one terminal: how far ahead of its controller a program may write.

use std::time::{Duration, Instant};

use belljar_link::message::{HISTORY_BYTES, MIN_WINDOW};

/// The controller's window. Without a controller (and after its hold has passed) a program is not
/// stopped and its oldest output is dropped.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    gate: Option<Gate>,
    /// Counts controllers, so that a late message of an earlier one changes nothing.
    turns: u64,
}

#[derive(Debug)]
struct Gate {
    turn: u64,
    acked: u64,
    window: u64,
    /// Set once the controller is gone: when its hold passes.
    held_until: Option<Instant>,
}

impl Flow {
    /// A new controller takes over, having processed everything before `offset`. Returns its turn.
    pub(crate) fn take(&mut self, offset: u64, window: u32) -> u64 {
        self.turns += 1;
        self.gate = Some(Gate {
            turn: self.turns,
            acked: offset,
            window: window.clamp(MIN_WINDOW, HISTORY_BYTES).into(),
            held_until: None,
        });
        self.turns
    }

    /// A controller acknowledged output; `end` bounds what it can have seen.
    pub(crate) fn ack(&mut self, turn: u64, offset: u64, end: u64) {
        if let Some(gate) = self.gate.as_mut().filter(|gate| gate.turn == turn) {
            gate.acked = gate.acked.max(offset.min(end));
        }
    }

    /// A controller is gone; its window stays for `hold`.
    pub(crate) fn release(&mut self, turn: u64, hold: Duration, now: Instant) {
        if let Some(gate) = self.gate.as_mut().filter(|gate| gate.turn == turn) {
            gate.held_until = Some(now + hold);
        }
    }

    /// How many more bytes of output may be kept now, the history being at `end`; and, if the
    /// answer may change by itself, when.
    pub(crate) fn allowance(&mut self, end: u64, now: Instant) -> (u64, Option<Instant>) {
        if let Some(gate) = &self.gate {
            if gate.held_until.is_some_and(|until| until <= now) {
                self.gate = None;
            } else {
                let limit = gate.acked.saturating_add(gate.window);
                return (limit.saturating_sub(end), gate.held_until);
            }
        }
        (u64::MAX, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_stops_the_program_and_a_hold_passes() {
        let now = Instant::now();
        let mut flow = Flow::default();
        assert_eq!(flow.allowance(5_000_000, now), (u64::MAX, None));

        let turn = flow.take(1000, 4096);
        assert_eq!(flow.allowance(1000, now).0, 4096);
        assert_eq!(flow.allowance(5096, now).0, 0);
        flow.ack(turn, 2000, 5096);
        assert_eq!(flow.allowance(5096, now).0, 1000);
        // Neither an old nor an impossible acknowledgement moves it where it should not be.
        flow.ack(turn, 10, 5096);
        assert_eq!(flow.allowance(5096, now).0, 1000);
        flow.ack(turn, u64::MAX, 5096);
        assert_eq!(flow.allowance(5096, now).0, 4096);

        let hold = Duration::from_secs(15);
        flow.release(turn, hold, now);
        assert_eq!(flow.allowance(9192, now), (0, Some(now + hold)));
        assert_eq!(flow.allowance(9192, now + hold), (u64::MAX, None));
    }

    #[test]
    fn an_earlier_controller_has_no_say() {
        let now = Instant::now();
        let mut flow = Flow::default();
        let first = flow.take(0, 4096);
        let _second = flow.take(0, 4096);
        flow.ack(first, 4096, 4096);
        flow.release(first, Duration::ZERO, now);
        assert_eq!(flow.allowance(4096, now), (0, None));
    }
}
