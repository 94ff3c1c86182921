//! Traces, as a collector receives them.

use std::fmt::Write;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{BELLJAR, Place, Service};
use crate::harness::PATIENCE;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that takes everything.
struct Collector {
    endpoint: String,
    requests: mpsc::Receiver<ExportTraceServiceRequest>,
    /// What has come so far.
    spans: Vec<Span>,
    /// The same, whole, as text.
    whole: String,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound port"));
        let (send, requests) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if send.send(take(stream).await).await.is_err() {
                    return;
                }
            }
        });
        Self {
            endpoint,
            requests,
            spans: Vec::new(),
            whole: String::new(),
        }
    }

    /// The first span of this name.
    async fn span(&mut self, name: &str) -> Span {
        loop {
            if let Some(span) = self.spans.iter().find(|span| span.name == name) {
                return span.clone();
            }
            let request = timeout(PATIENCE, self.requests.recv()).await;
            let request = request.expect("it comes in time").expect("it listens");
            write!(self.whole, "{request:?}").expect("a string takes everything");
            for resource in request.resource_spans {
                for scope in resource.scope_spans {
                    self.spans.extend(scope.spans);
                }
            }
        }
    }
}

/// One request, answered.
async fn take(mut stream: TcpStream) -> ExportTraceServiceRequest {
    let mut bytes = Vec::new();
    let head = loop {
        assert_ne!(stream.read_buf(&mut bytes).await.expect("it sends"), 0);
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    assert!(text.starts_with("post /v1/traces http/1.1\r\n"), "{text}");
    assert!(text.contains("content-type: application/x-protobuf\r\n"));
    let length = text.split("content-length: ").nth(1).expect("a length");
    let length: usize = length.lines().next().unwrap().parse().expect("a number");
    while bytes.len() < head + length {
        assert_ne!(stream.read_buf(&mut bytes).await.expect("it sends"), 0);
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer).await.expect("it reads");
    ExportTraceServiceRequest::decode(&bytes[head..]).expect("spans")
}

async fn traced(place: &Place, endpoint: &str) -> Service {
    let mut command = place.command(BELLJAR, &["serve"]);
    command
        .env("BELLJAR_TELEMETRY__OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    Service::spawn(&mut command).await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> Vec<&str> {
    let mut keys: Vec<&str> = span.attributes.iter().map(|a| a.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn a_session_is_one_trace_from_its_handshake_to_its_removal() {
    let mut collector = Collector::start().await;
    let place = Place::new("");
    let service = traced(&place, &collector.endpoint).await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let mut visitor = service.visit_with(&[("traceparent", &parent)]).await;
    visitor.run("echo hunter2").await;
    visitor.send(json!({"type": "close"})).await;
    visitor.closed().await;

    let session = collector.span("session").await;
    assert_eq!(hex(&session.trace_id), TRACE);
    assert_eq!(hex(&session.parent_span_id), PARENT);
    assert_eq!(
        attributes(&session),
        ["client", "reason", "sandbox", "session", "template"]
    );
    let removal = collector.span("removal").await;
    for child in ["start", "attach", "removal"] {
        let child = collector.span(child).await;
        assert_eq!(child.trace_id, session.trace_id, "{}", child.name);
        assert_eq!(child.parent_span_id, session.span_id, "{}", child.name);
    }
    let (start, hello) = (collector.span("start").await, collector.span("hello").await);
    assert_eq!(hello.parent_span_id, start.span_id);
    assert!(session.start_time_unix_nano <= start.start_time_unix_nano);
    assert!(session.end_time_unix_nano >= removal.end_time_unix_nano);

    assert!(collector.whole.contains("service.name"));
    for secret in ["hunter2", &visitor.token] {
        assert!(!collector.whole.contains(secret), "{secret} was exported");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_and_a_parent_that_is_none_are_seen_as_what_they_are() {
    let mut collector = Collector::start().await;
    // A program that is not there: the agent refuses.
    let place = Place::new("default_template = \"bad\"\n[templates.bad]\ncommand = [\"/nope\"]\n");
    let service = traced(&place, &collector.endpoint).await;
    let parent = format!("00-{TRACE}-{PARENT}");
    let mut visitor = service.connect("/ws", &[("traceparent", &parent)]).await;
    visitor.closed().await;
    let start = collector.span("start").await;
    let status = start.status.expect("a status");
    assert_eq!(status.code, StatusCode::Error as i32);
    assert!(!status.message.is_empty());
    let session = collector.span("session").await;
    assert_ne!(hex(&session.trace_id), TRACE);
    assert!(session.parent_span_id.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn a_collector_that_is_down_is_mentioned_once_and_in_nobodys_way() {
    // Connections are taken by the kernel, and nobody ever answers; then not even that.
    for answers in [true, false] {
        let place = Place::new("");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound port"));
        let listener = Some(listener).filter(|_| answers);
        let mut service = traced(&place, &endpoint).await;
        let mut lines = Vec::new();
        for _ in 0..3 {
            let mut visitor = service.visit().await;
            visitor.send(json!({"type": "close"})).await;
            visitor.closed().await;
            // A failed export is under way or over before the next begins.
            if lines.is_empty() {
                lines.push(service.logs("traces are lost").await);
            }
        }
        service.signal(rustix::process::Signal::TERM);
        let rest = async {
            while let Some(line) = service.log.next_line().await.expect("text") {
                lines.push(line);
            }
        };
        timeout(PATIENCE, rest).await.expect("it goes away in time");
        let complaints = lines.iter().filter(|l| l.contains("traces are lost"));
        assert_eq!(complaints.count(), 1, "{lines:?}");
        drop(listener);
    }
}
