//! Whether an agent is there.

use std::time::Duration;

use belljar_link::client::{Link, LinkError};
use tokio::time::{Instant, sleep};

use crate::telemetry::Metrics;

/// How often an agent is asked whether it is there, and how many answers in a row it may owe, each
/// for the ten seconds of a call. gVisor can lock itself up, and a visitor can stop the agent: then
/// nothing breaks, and nothing moves any more.
const PULSE: (Duration, u32) = (Duration::from_secs(15), 2);

/// Resolves when the agent has not answered for too long. A link that ends is another matter.
pub async fn silent(link: &Link, metrics: &Metrics) {
    let mut missed = 0;
    while missed < PULSE.1 {
        sleep(PULSE.0).await;
        let asked = Instant::now();
        match link.ping().await {
            Err(LinkError::Deadline) => missed += 1,
            Err(_) => missed = 0,
            Ok(()) => {
                metrics.link_round_trip(asked.elapsed());
                missed = 0;
            }
        }
    }
}
