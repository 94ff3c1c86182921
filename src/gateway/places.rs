//! Places for connections: of all clients, of each, and of those that are being refused.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Live;
use crate::limit::client_ip::is_trusted;
use crate::limit::{Client, Connected, Connections};

/// Connections being refused at once, each for as long as its request takes to come.
const MAX_REFUSALS: usize = 64;

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    clients: Arc<Connections>,
    refusals: Arc<Semaphore>,
    config: Arc<Live>,
}

/// One connection's place; free again after its drop.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _client: Option<Connected>,
}

/// What is to become of a connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is served.
    Welcome(Place),
    /// Its client has too many, and is told so.
    Refused(Place),
    /// So have too many others who are being told: it is closed without a word.
    Ignored,
}

impl Places {
    pub(super) fn new(config: Arc<Live>) -> Self {
        let limits = &config.get().limits;
        Self {
            all: Arc::new(Semaphore::new(limits.max_connections)),
            clients: Arc::new(Connections::new(limits.connections_per_client)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            config,
        }
    }

    /// Resolves with one of the places for all clients.
    pub(super) async fn free(&self) -> OwnedSemaphorePermit {
        let place = self.all.clone().acquire_owned().await;
        place.expect("it is never closed")
    }

    /// Use the place for a connection from `peer`, unless it is refused. A proxy brings many clients,
    /// so it has no limit of its own.
    pub(super) fn admit(&self, free: OwnedSemaphorePermit, peer: IpAddr) -> Admission {
        let place = |place, client| Place {
            _place: place,
            _client: client,
        };
        if is_trusted(peer, &self.config.get().trusted_proxies) {
            return Admission::Welcome(place(free, None));
        }
        if let Some(client) = self.clients.connect(Client::of(peer)) {
            return Admission::Welcome(place(free, Some(client)));
        }
        match self.refusals.clone().try_acquire_owned() {
            Ok(refusal) => Admission::Refused(place(refusal, None)),
            Err(_) => Admission::Ignored,
        }
    }
}
