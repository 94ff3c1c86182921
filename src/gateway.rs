//! The gateway as a whole: what it is made of, and in which order it goes away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::{Config, Live};
use crate::fleet::Fleet;
use crate::keys::Keys;
use crate::limit::Limiter;
use crate::sandbox::{EngineState, Host, Launcher, Sandboxes};
use crate::session::{Leave, Sessions};
use crate::telemetry::Metrics;
use crate::web::turns::Turns;
use crate::web::{self, App, Patience};

mod places;

mod socket;

use places::{Admission, Place, Places};
use socket::Socket;

/// How long a client may take to send the head of a request, the first or a later one.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// Largest request head, bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How often limits and ended sessions are looked through for what can be forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(30);

/// How long a connection may go on asking over plain HTTP before it is told to come back anew, and
/// then how long its last answer may take. Whoever does not read an answer would otherwise hold a
/// connection for ever. The longest answer, a session's start, takes 45 s.
const HTTP_DEADLINES: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(60));

/// How long answers under way may take when the gateway goes away.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// How long visitors, and then sandboxes, may take to go away. Together shorter than systemd's 90 s
/// before it kills.
const DRAIN_DEADLINES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(12));

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    app: App,
    /// Sessions, connections and all else that must end before the engine's keepers do.
    sessions: TaskTracker,
    sessions_stop: CancellationToken,
    /// The engine's watch and the reaper.
    keepers: TaskTracker,
    keepers_stop: CancellationToken,
}

impl Gateway {
    /// Wire a gateway together, take back what an earlier one left and begin to look after the
    /// engine. Visitors come with [`Gateway::serve`].
    pub async fn new(config: Config, launcher: Arc<dyn Launcher>) -> Self {
        Self::on(Host::this(), config, launcher).await
    }

    /// The same on a host that is not this one; for tests.
    pub async fn on(host: Host, config: Config, launcher: Arc<dyn Launcher>) -> Self {
        let config = Arc::new(Live::new(config));
        let metrics = Arc::new(Metrics::default());
        let limiter = Arc::new(Limiter::new(config.clone()));
        let (sessions_tasks, keepers) = (TaskTracker::new(), TaskTracker::new());
        let (sessions_stop, keepers_stop) = (CancellationToken::new(), CancellationToken::new());
        let (sandboxes, kept) = Sandboxes::new(
            launcher,
            host,
            config.clone(),
            metrics.clone(),
            &keepers,
            &keepers_stop,
        )
        .await;
        let sandboxes = Arc::new(sandboxes);
        let sessions = Arc::new(Sessions::new(
            config.clone(),
            sandboxes.clone(),
            limiter.clone(),
            metrics.clone(),
            sessions_tasks.clone(),
        ));
        let fleet = Arc::new(Fleet::new(
            config.clone(),
            sandboxes.clone(),
            metrics.clone(),
            sessions_tasks.clone(),
        ));
        let (of_programs, of_visitors) = kept.into_iter().partition(|(_, note)| Fleet::wrote(note));
        fleet.adopt(of_programs);
        sessions.adopt(of_visitors);
        sessions_tasks.spawn({
            let (sandboxes, stop) = (sandboxes.clone(), sessions_stop.clone());
            async move { sandboxes.keep_pools_full(&stop).await }
        });
        keepers.spawn(prune(
            limiter.clone(),
            sessions.clone(),
            fleet.clone(),
            keepers_stop.clone(),
        ));
        let keys = Arc::new(Keys::open(&config.get().api.keys_file));
        Self {
            app: App {
                config,
                sessions,
                fleet,
                keys,
                seen: Arc::default(),
                answers: Arc::default(),
                limiter,
                sandboxes,
                metrics,
                turns: Arc::new(Turns::of(&Handle::current())),
                begun: Instant::now(),
                tasks: sessions_tasks.clone(),
            },
            sessions: sessions_tasks,
            sessions_stop,
            keepers,
            keepers_stop,
        }
    }

    /// Resolves once the engine's health is known.
    pub async fn engine_known(&self) -> EngineState {
        self.app.sandboxes.engine_known().await
    }

    /// What the handlers see. For tests that look behind the curtain.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Serve visitors until `shutdown` says how to go away, then do so in order: no new connections;
    /// every session ends, or is left to the next gateway, and says so; every other sandbox is
    /// removed. Bounded.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = Leave>) {
        let router = web::router(self.app.clone());
        let places = Places::new(self.app.config.clone());
        tokio::pin!(shutdown);
        let leave = loop {
            // A place first: when there is none, new connections wait in the kernel's backlog.
            let accepted = async {
                let place = places.free().await;
                let (stream, peer) = listener.accept().await?;
                Ok::<_, io::Error>((place, stream, peer))
            };
            tokio::select! {
                accepted = accepted => match accepted {
                    Ok((place, stream, peer)) => {
                        let (router, place) = match places.admit(place, peer.ip()) {
                            Admission::Welcome(place) => (router.clone(), place),
                            Admission::Refused(place) => (web::refusal(), place),
                            Admission::Ignored => continue,
                        };
                        let connection = self.connection(stream, peer, router, place);
                        self.sessions.spawn(connection);
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: what is open goes on.
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                leave = &mut shutdown => break leave,
            }
        };
        drop(listener);
        self.drain(leave).await;
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        router: axum::Router,
        place: Place,
    ) -> impl Future<Output = ()> + use<> {
        let socket = Socket::new(stream, place, self.app.metrics.connections().clone());
        let stop = self.sessions_stop.clone();
        let patience = Patience::default();
        async move {
            let long_answers = patience.clone();
            let service = router.map_request(move |mut request: hyper::Request<_>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(patience.clone());
                request
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
                .with_upgrades();
            tokio::pin!(connection);
            // Resolves too when the connection has become a WebSocket, which has deadlines of its
            // own.
            let last_answer = tokio::select! {
                ended = &mut connection => return report(ended),
                () = async {
                    sleep(HTTP_DEADLINES.0).await;
                    long_answers.over().await;
                } => HTTP_DEADLINES.1,
                () = stop.cancelled() => LAST_ANSWER,
            };
            connection.as_mut().graceful_shutdown();
            if let Ok(ended) = timeout(last_answer, connection).await {
                report(ended);
            }
        }
    }

    async fn drain(self, leave: Leave) {
        let held = self.app.sandboxes.count();
        tracing::info!(sandboxes = held, ?leave, "going away");
        self.app.sessions.leave(leave);
        self.app.fleet.leave(leave);
        self.app.sandboxes.going(leave);
        self.sessions_stop.cancel();
        self.sessions.close();
        // Apart, so that a visitor who lingers does not keep sandboxes from being removed.
        if timeout(DRAIN_DEADLINES.0, self.sessions.wait())
            .await
            .is_err()
        {
            tracing::warn!("not every session ended in time");
        }
        self.keepers_stop.cancel();
        self.keepers.close();
        if timeout(DRAIN_DEADLINES.1, self.keepers.wait())
            .await
            .is_err()
        {
            tracing::warn!("not every sandbox was removed in time");
        }
    }
}

fn report(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn prune(
    limiter: Arc<Limiter>,
    sessions: Arc<Sessions>,
    fleet: Arc<Fleet>,
    stop: CancellationToken,
) {
    let mut ticks = interval(PRUNE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                limiter.prune(tokio::time::Instant::now());
                // Its state is known though nobody comes; whoever asked it has said what there is to say.
                let _ = limiter.look_for_store().await;
                sessions.prune();
                fleet.prune();
            }
            () = stop.cancelled() => return,
        }
    }
}
