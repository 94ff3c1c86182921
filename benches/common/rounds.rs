//! Samples of sides that take turns, by round.

use std::fmt::Write as _;

use crate::percentile::percentile;

/// Samples of one side.
pub(crate) struct Rounds {
    pub(crate) side: &'static str,
    rounds: Vec<Vec<f64>>,
}

impl Rounds {
    pub(crate) fn of(side: &'static str) -> Self {
        Self {
            side,
            rounds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, samples: Vec<f64>) {
        self.rounds.push(samples);
    }

    /// The median of the rounds' medians.
    pub(crate) fn median(&self) -> f64 {
        percentile(&self.medians(), 50.0)
    }

    fn medians(&self) -> Vec<f64> {
        let medians = self.rounds.iter().map(|round| percentile(round, 50.0));
        medians.collect()
    }

    /// The median with its spread: of the rounds' medians, or of the samples of the only one.
    pub(crate) fn describe(&self) -> String {
        let medians = self.medians();
        let all = self.rounds.concat();
        let spread = if medians.len() > 1 { &medians } else { &all };
        let mut text = format!(
            "n {} × {}, median {:.1} ({:.1} to {:.1})",
            self.rounds.len(),
            self.rounds[0].len(),
            self.median(),
            percentile(spread, 0.0),
            percentile(spread, 100.0),
        );
        if self.rounds[0].len() > 1 {
            let _ = write!(text, ", p99 {:.1}", percentile(&all, 99.0));
        }
        text
    }
}
