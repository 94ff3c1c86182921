//! `belljar attach`: a terminal of a gateway in this one.

use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::{SinkExt, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::complain;
use crate::web::protocol::v1::SUBPROTOCOL;

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);

/// First and longest pause between attempts to reconnect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// How long to go on trying. The gateway keeps a lost visitor's session this long by default.
const PATIENCE: Duration = Duration::from_secs(60);

/// Largest frame of input, bytes; the gateway takes 64 KiB.
const MAX_FRAME: usize = 32 * 1024;

/// Ctrl-] leaves, as in telnet: everything else belongs to the shell.
const LEAVE: u8 = 0x1d;

/// The end of piped input is typed as Ctrl-D.
const END_OF_INPUT: u8 = 0x04;

/// Which terminal to open.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The gateway, as `http://127.0.0.1:3001` or `https://terminals.example.com`.
    url: String,
    /// The template to start from.
    #[arg(long)]
    template: Option<String>,
}

/// What the gateway says; unknown messages are skipped.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Incoming {
    Ready {
        session: String,
        token: String,
        offset: u64,
    },
    #[serde(rename_all = "camelCase")]
    Queued {
        position: u64,
        eta_ms: Option<u64>,
    },
    Gap {
        to: u64,
    },
    Notice {
        code: String,
        message: String,
    },
    Exit {
        code: Option<i32>,
        signal: Option<String>,
        reason: String,
        message: String,
    },
    Error {
        code: String,
        message: String,
    },
    #[serde(other)]
    Other,
}

/// How it ended.
enum End {
    /// The session is over: exit with this code, saying this.
    Over(u8, String),
    /// The connection was lost.
    Lost(String),
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Open a terminal and stay until it ends; the exit code is the shell's.
pub(super) async fn run(target: &Target) -> ExitCode {
    // Fails only if another was installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let base = match websocket_base(&target.url) {
        Ok(base) => base,
        Err(message) => return complain(&message),
    };
    let Ok(resized) = signal(SignalKind::window_change()) else {
        return complain("no signals");
    };
    let mut client = Client {
        base,
        template: target.template.clone(),
        session: None,
        offset: 0,
        keys: keys(),
        keys_ended: false,
        resized,
    };
    let raw = RawMode::enter();
    if raw.is_some() {
        eprint!("Ctrl-] leaves.\r\n");
    }
    let (code, message) = client.stay().await;
    drop(raw);
    if !message.is_empty() {
        eprintln!("{message}");
    }
    ExitCode::from(code)
}

/// `http://host/path/` to `ws://host/path`.
fn websocket_base(url: &str) -> Result<String, String> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| format!("{url:?} is not a URL such as http://127.0.0.1:3001"))?;
    let scheme = match scheme {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => return Err(format!("{other}:// is not http, https, ws or wss")),
    };
    Ok(format!("{scheme}://{}", rest.trim_end_matches('/')))
}

/// The terminal's raw mode; left on drop.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// What is typed. A thread of its own, because reading a terminal cannot be cancelled; the queue is
/// short, so a paste waits in the terminal.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (send, keys) = mpsc::channel(4);
    std::thread::spawn(move || {
        let interactive = io::stdin().is_terminal();
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let read = io::stdin().lock().read(&mut buffer);
            let piece = match read {
                Ok(0) | Err(_) if interactive => return,
                Ok(0) | Err(_) => vec![END_OF_INPUT],
                Ok(n) => buffer[..n].to_vec(),
            };
            let ended = read.is_ok_and(|n| n == 0);
            if send.blocking_send(piece).is_err() || ended {
                return;
            }
        }
    });
    keys
}

fn size() -> (u16, u16) {
    tcgetwinsize(io::stdout())
        .ok()
        .filter(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

struct Client {
    base: String,
    template: Option<String>,
    /// Id and token, once there is a session.
    session: Option<(String, String)>,
    /// Offset of the next byte of output.
    offset: u64,
    keys: mpsc::Receiver<Vec<u8>>,
    keys_ended: bool,
    resized: Signal,
}

impl Client {
    /// Connect, and again whenever the connection is lost; returns exit code and last words.
    async fn stay(&mut self) -> (u8, String) {
        let mut pause = PAUSE.0;
        let mut lost_at: Option<Instant> = None;
        loop {
            let end = match self.connect().await {
                Ok(socket) => self.converse(socket, &mut lost_at).await,
                Err(cause) => End::Lost(cause),
            };
            let cause = match end {
                End::Over(code, message) => return (code, message),
                End::Lost(cause) => cause,
            };
            if self.session.is_none() {
                return (1, format!("belljar: {cause}"));
            }
            let since = *lost_at.get_or_insert_with(|| {
                pause = PAUSE.0;
                Instant::now()
            });
            if since.elapsed() > PATIENCE {
                return (1, format!("belljar: the connection was lost: {cause}"));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn connect(&self) -> Result<Socket, String> {
        let url = if let Some((id, _)) = &self.session {
            format!("{}/sessions/{id}/ws", self.base)
        } else {
            let (cols, rows) = size();
            let mut url = format!("{}/ws?cols={cols}&rows={rows}", self.base);
            if let Some(template) = &self.template {
                url.push_str("&template=");
                url.extend(template.bytes().map(percent));
            }
            url
        };
        let mut request = url.into_client_request().map_err(|e| e.to_string())?;
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let connected = timeout(CONNECT_DEADLINE, connect_async(request)).await;
        let (mut socket, _) = connected
            .map_err(|_| "no answer".to_owned())?
            .map_err(|e| e.to_string())?;
        if let Some((_, token)) = &self.session {
            let (cols, rows) = size();
            let attach = json!({
                "type": "attach", "token": token, "from": self.offset, "cols": cols, "rows": rows
            });
            let sent = socket.send(text(&attach)).await;
            sent.map_err(|e| e.to_string())?;
        }
        Ok(socket)
    }

    async fn converse(&mut self, mut socket: Socket, lost_at: &mut Option<Instant>) -> End {
        let mut stdout = tokio::io::stdout();
        loop {
            tokio::select! {
                message = socket.next() => {
                    let message = match message {
                        Some(Ok(message)) => message,
                        Some(Err(error)) => return End::Lost(error.to_string()),
                        None => return End::Lost("closed".into()),
                    };
                    match message {
                        Message::Binary(bytes) => {
                            let shown = async {
                                stdout.write_all(&bytes).await?;
                                stdout.flush().await
                            };
                            if shown.await.is_err() {
                                return End::Over(0, String::new());
                            }
                            self.offset += bytes.len() as u64;
                            let ack = json!({"type": "ack", "offset": self.offset});
                            if let Err(error) = socket.send(text(&ack)).await {
                                return End::Lost(error.to_string());
                            }
                        }
                        Message::Text(json) => {
                            if let Some(end) = self.told(&json, lost_at) {
                                let _ = socket.close(None).await;
                                return end;
                            }
                        }
                        Message::Close(frame) => {
                            let code = frame.map_or(1005, |frame| u16::from(frame.code));
                            return match code {
                                4001 => End::Over(0, "The session continues elsewhere.".into()),
                                code => End::Lost(format!("closed with code {code}")),
                            };
                        }
                        _ => {}
                    }
                }
                keys = self.keys.recv(), if !self.keys_ended => match keys {
                    Some(keys) if keys.contains(&LEAVE) && io::stdin().is_terminal() => {
                        let _ = socket.send(text(&json!({"type": "close"}))).await;
                        let _ = timeout(Duration::from_secs(2), socket.close(None)).await;
                        return End::Over(0, "Left.".into());
                    }
                    Some(keys) => if let Err(error) = socket.send(Message::Binary(keys.into())).await {
                        return End::Lost(error.to_string());
                    },
                    None => self.keys_ended = true,
                },
                _ = self.resized.recv() => {
                    let (cols, rows) = size();
                    let resize = json!({"type": "resize", "cols": cols, "rows": rows});
                    if let Err(error) = socket.send(text(&resize)).await {
                        return End::Lost(error.to_string());
                    }
                }
            }
        }
    }

    /// Take in a control message; returns the end if it is one.
    fn told(&mut self, json: &str, lost_at: &mut Option<Instant>) -> Option<End> {
        match serde_json::from_str(json).ok()? {
            Incoming::Ready {
                session,
                token,
                offset,
            } => {
                self.session = Some((session, token));
                self.offset = offset;
                *lost_at = None;
            }
            Incoming::Queued { position, eta_ms } => {
                let wait = eta_ms.map_or(String::new(), |ms| {
                    format!(", about {} s", ms.div_ceil(1000))
                });
                eprint!("[You are number {position} in line{wait}.]\r\n");
            }
            Incoming::Gap { to } => self.offset = to,
            Incoming::Notice { code, message } => {
                if code != "taken_over" {
                    eprint!("\r\n[{message}]\r\n");
                }
            }
            Incoming::Exit {
                code,
                signal,
                reason,
                message,
            } => {
                let said = if reason == "exited" {
                    String::new()
                } else {
                    message
                };
                let status = match (code, signal) {
                    (Some(code), _) => u8::try_from(code).unwrap_or(1),
                    // As a shell reports a program that a signal ended.
                    (None, Some(signal)) => 128 + signal_number(&signal),
                    (None, None) if reason == "closed" => 0,
                    (None, None) => 1,
                };
                return Some(End::Over(status, said));
            }
            // The next gateway has the session.
            Incoming::Error { code, message } if code == "going_away" => {
                return Some(End::Lost(message));
            }
            Incoming::Error { message, .. } => {
                return Some(End::Over(1, format!("belljar: {message}")));
            }
            Incoming::Other => {}
        }
        None
    }
}

fn text(value: &serde_json::Value) -> Message {
    Message::Text(tungstenite::Utf8Bytes::from(value.to_string()))
}

/// A byte of a query value.
fn percent(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
        char::from(byte).into()
    } else {
        format!("%{byte:02X}")
    }
}

fn signal_number(name: &str) -> u8 {
    match name {
        "SIGHUP" => 1,
        "SIGINT" => 2,
        "SIGQUIT" => 3,
        "SIGABRT" => 6,
        "SIGSEGV" => 11,
        "SIGPIPE" => 13,
        "SIGTERM" => 15,
        // SIGKILL, and whatever else ends a shell as abruptly.
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_address_of_a_page() {
        assert_eq!(websocket_base("http://h:1/").unwrap(), "ws://h:1");
        assert_eq!(websocket_base("https://h/t").unwrap(), "wss://h/t");
        assert!(websocket_base("h:1").is_err());
        assert!(websocket_base("ftp://h").is_err());
    }

    #[test]
    fn names_become_query_values() {
        let value: String = "a b&c".bytes().map(percent).collect();
        assert_eq!(value, "a%20b%26c");
    }
}
