//! What has been counted since the gateway began, for people who have no Prometheus at hand.
//!
//! Read from the text that Prometheus gets, the one place where the library shows a family's series.

use std::collections::BTreeMap;

/// What operators want to see at a glance.
#[derive(Debug, Default, PartialEq)]
pub struct Totals {
    /// Refusals by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Sessions that have ended, by reason.
    pub sessions_ended: BTreeMap<String, u64>,
    /// Sandboxes of programs that have ended, by reason.
    pub fleet_ended: BTreeMap<String, u64>,
    /// How long starts took.
    pub starts: Starts,
}

/// How long starts took.
#[derive(Debug, Default, PartialEq)]
pub struct Starts {
    /// How many there were.
    pub count: u64,
    /// All of them, seconds.
    pub sum: f64,
    /// Upper bounds in seconds, ascending, each with the number of starts up to it.
    buckets: Vec<(f64, u64)>,
}

impl Starts {
    /// The duration that this share of the starts took at most, seconds, supposing that those of a
    /// bucket lie evenly in it. `None` before the first start.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let (last, all) = self.buckets.last().filter(|(_, all)| *all > 0)?;
        let rank = share * number(*all);
        let mut below = (0.0, 0);
        for (bound, count) in &self.buckets {
            if number(*count) >= rank && bound.is_finite() {
                let within = number(count - below.1).max(1.0);
                return Some(below.0 + (bound - below.0) * (rank - number(below.1)) / within);
            }
            if bound.is_finite() {
                below = (*bound, *count);
            }
        }
        // Slower than every bound: nobody knows by how much.
        Some(if last.is_finite() { *last } else { below.0 })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nobody starts so many sandboxes"
)]
fn number(count: u64) -> f64 {
    count as f64
}

impl Totals {
    /// The totals in the text of all metrics.
    pub(super) fn read(text: &str) -> Self {
        let mut totals = Self::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, label) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.split('"').nth(1).unwrap_or_default()),
                None => (series, ""),
            };
            let count = || value.parse::<u64>().unwrap_or_default();
            let family = match name {
                "belljar_refusals_total" => &mut totals.refusals,
                "belljar_sessions_ended_total" => &mut totals.sessions_ended,
                "belljar_fleet_ended_total" => &mut totals.fleet_ended,
                "belljar_start_seconds_sum" => {
                    totals.starts.sum = value.parse().unwrap_or_default();
                    continue;
                }
                "belljar_start_seconds_count" => {
                    totals.starts.count = count();
                    continue;
                }
                "belljar_start_seconds_bucket" => {
                    let bound = label.parse().unwrap_or(f64::INFINITY);
                    totals.starts.buckets.push((bound, count()));
                    continue;
                }
                _ => continue,
            };
            family.insert(label.to_owned(), count());
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Metrics;

    #[test]
    fn everything_that_was_counted_is_there() {
        let metrics = Metrics::default();
        metrics.refused("rate_limited");
        metrics.refused("rate_limited");
        metrics.refused("at_capacity");
        metrics.session_ended("ended_by_operator", Duration::from_secs(4));
        metrics.fleet_ended("timeout");
        metrics.started(Duration::from_millis(300));
        let totals = metrics.totals();
        assert_eq!(totals.refusals["rate_limited"], 2);
        assert_eq!(totals.refusals["at_capacity"], 1);
        assert_eq!(totals.sessions_ended["ended_by_operator"], 1);
        assert_eq!(totals.fleet_ended["timeout"], 1);
        assert_eq!(totals.starts.count, 1);
        assert!((totals.starts.sum - 0.3).abs() < 1e-9);
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let metrics = Metrics::default();
        assert_eq!(metrics.totals().starts.quantile(0.5), None);
        for _ in 0..9 {
            metrics.started(Duration::from_millis(300));
        }
        metrics.started(Duration::from_secs(100));
        let starts = metrics.totals().starts;
        let median = starts.quantile(0.5).unwrap();
        assert!((0.25..=0.5).contains(&median), "{median}");
        // Beyond the last bound, which is all that can be said.
        assert!((starts.quantile(0.99).unwrap() - 45.0).abs() < 1e-9);
    }
}
