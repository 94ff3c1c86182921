//! Connections at once, counted for each client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Client;

/// How many connections each client has open. Holds no more clients than there are connections.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    open: Mutex<HashMap<Client, usize>>,
}

impl Connections {
    /// At most `max` for each client.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        // No code that could panic runs under the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more for this client; `None` if it has as many as it may.
    pub fn connect(self: &Arc<Self>, client: Client) -> Option<Connected> {
        let mut open = self.open();
        let count = open.entry(client).or_default();
        (*count < self.max).then(|| {
            *count += 1;
            Connected {
                client,
                connections: self.clone(),
            }
        })
    }
}

/// A connection that is counted; no longer after its drop.
#[derive(Debug)]
pub struct Connected {
    client: Client,
    connections: Arc<Connections>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_and_nobody_is_remembered() {
        let client = |last| Client::of(std::net::Ipv4Addr::new(192, 0, 2, last).into());
        let connections = Arc::new(Connections::new(2));
        let first = connections.connect(client(1)).unwrap();
        let second = connections.connect(client(1)).unwrap();
        assert!(connections.connect(client(1)).is_none());
        let other = connections.connect(client(2)).unwrap();
        drop(first);
        let third = connections.connect(client(1)).unwrap();
        drop((second, third, other));
        assert!(connections.open().is_empty());
    }
}
