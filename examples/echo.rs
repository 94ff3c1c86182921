//! A WebSocket that answers with what it hears, bounded as the gateway's, for `make autobahn`.
//!
//! `echo ADDRESS [MAX_MESSAGE]`: the second lifts the bounds to messages of so many bytes, for the
//! cases that send larger ones than the gateway takes.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use belljar::web::websocket;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().and_then(|text| text.parse().ok());
    let address: SocketAddr = address.expect("echo ADDRESS [MAX_MESSAGE]");
    let max_message: Option<usize> = arguments
        .next()
        .map(|text| text.parse().expect("MAX_MESSAGE is a number"));
    let accept = move |upgrade: WebSocketUpgrade| async move {
        let mut upgrade = websocket::bounded(upgrade);
        if let Some(max) = max_message {
            upgrade = upgrade
                .max_message_size(max)
                .max_frame_size(max)
                .max_write_buffer_size(2 * max);
        }
        upgrade.on_upgrade(echo)
    };
    let listener = TcpListener::bind(address).await.expect("a free port");
    println!("listening");
    let router = Router::new().route("/", any(accept));
    axum::serve(listener, router).await.expect("it serves");
}

/// Split, as the gateway does it.
async fn echo(socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    // An error ends the connection; the library has told the peer what it must.
    while let Some(Ok(message)) = stream.next().await {
        let answer = match message {
            Message::Text(_) | Message::Binary(_) => sink.send(message).await,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        };
        if answer.is_err() {
            return;
        }
    }
}
