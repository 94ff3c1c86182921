//! The standard streams of a process in a pod, over a WebSocket to the API server.
//!
//! kube has this too, as a task with a pipe for each stream, which writes to one before it reads the
//! next: while the standard input is full, nothing reads the output, which may be what the agent waits
//! for. Here the two directions do not know of each other, and there is neither task nor pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, Stream};
use http_body_util::{BodyExt, Limited};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use kube::api::AttachParams;
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::super::LaunchError;
use super::pod::CONTAINER;
use super::trouble::{Doing, answer, trouble};

/// Binary frames, each with the number of its stream in front, and a status at the end. Version 5 adds
/// a half-close, which a link needs not.
const SUBPROTOCOL: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STATUS: u8 = 3;

/// Largest message, bytes. A kubelet sends 32 KiB at most.
const MAX_MESSAGE: usize = 1 << 20;

/// Most bytes of input in one message.
const MAX_INPUT: usize = 32 * 1024;

/// Buffers, bytes: a gateway holds thousands of these. The yamux above has its own.
const BUFFER: usize = 4 * 1024;

/// Largest answer that is read of a server that does not upgrade, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The standard input and output of a process.
pub(super) struct Channel {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    /// Output that was received and not read yet.
    received: Bytes,
    /// The process has ended, or the way to it.
    ended: bool,
}

/// The agent's own.
pub(super) async fn attach(
    client: &Client,
    namespace: &str,
    pod: &str,
) -> Result<Channel, LaunchError> {
    open(client, namespace, |request, streams| {
        request.attach(pod, streams)
    })
    .await
}

/// Those of another process beside it.
pub(super) async fn exec(
    client: &Client,
    namespace: &str,
    pod: &str,
    command: &[&str],
) -> Result<Channel, LaunchError> {
    let command = command.iter().copied();
    open(client, namespace, |request, streams| {
        request.exec(pod, command, streams)
    })
    .await
}

async fn open(
    client: &Client,
    namespace: &str,
    request: impl FnOnce(
        kube::core::Request,
        &AttachParams,
    ) -> Result<Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<Channel, LaunchError> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let streams = AttachParams::default()
        .container(CONTAINER)
        .stdin(true)
        .stdout(true)
        .stderr(false);
    let request = request(kube::core::Request::new(path), &streams);
    let request = request.map_err(|e| trouble(Doing::Channel, kube::Error::BuildRequest(e)))?;
    let mut request = request.map(Body::from);
    let key = generate_key();
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    let value = HeaderValue::from_str(&key).expect("base64");
    headers.insert(SEC_WEBSOCKET_KEY, value);

    let response = client.send(request).await;
    let response = response.map_err(|e| trouble(Doing::Channel, e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let message = serde_json::from_slice(&body)
            .ok()
            .and_then(|s: Status| s.message);
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        return Err(answer(Doing::Channel, code, &message));
    }
    if !agreed(response.headers(), &key) {
        return Err(answer(Doing::Channel, 101, "it speaks another protocol"));
    }
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded = upgraded.map_err(|e| trouble(Doing::Channel, kube::Error::HyperError(e)))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        // Each message is written at once; what cannot be is held to this.
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_INPUT)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
    Ok(Channel {
        socket,
        received: Bytes::new(),
        ended: false,
    })
}

/// Whether the server has understood.
fn agreed(headers: &HeaderMap, key: &str) -> bool {
    let header = |name| headers.get(name).map(HeaderValue::as_bytes);
    let accepted = derive_accept_key(key.as_bytes());
    header(SEC_WEBSOCKET_ACCEPT) == Some(accepted.as_bytes())
        && header(SEC_WEBSOCKET_PROTOCOL) == Some(SUBPROTOCOL.as_bytes())
}

fn broken(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.received.is_empty() && !self.ended {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(mut message))) => match message.first() {
                    Some(&STDOUT) => self.received = message.split_off(1),
                    // How the process ended is no business of the link's.
                    Some(&STATUS) if message.len() > 1 => {
                        let status = String::from_utf8_lossy(&message[1..]);
                        tracing::debug!(%status, "the stream to a pod has ended");
                        self.ended = true;
                    }
                    _ => {}
                },
                closed @ (Some(Ok(Message::Close(_))) | None) => {
                    tracing::debug!(?closed, "the stream to a pod was closed");
                    self.ended = true;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "the stream to a pod is broken");
                    self.ended = true;
                    return Poll::Ready(Err(broken(error)));
                }
            }
        }
        let now = self.received.len().min(buf.remaining());
        buf.put_slice(&self.received.split_to(now));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(broken)?;
        let now = &buf[..buf.len().min(MAX_INPUT)];
        let mut message = BytesMut::with_capacity(now.len() + 1);
        message.put_u8(STDIN);
        message.put_slice(now);
        let message = Message::Binary(message.freeze());
        socket.start_send(message).map_err(broken)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}
