//! Traces, for an OpenTelemetry collector. One for each session: from its creation to the removal of
//! its sandbox.
//!
//! Attributes are those of the log. Spans hold no input, no output, no tokens and no variables, and
//! the log's lines are not put into them.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

/// Spans that may wait for the collector, about 1 KiB each; more are dropped. A session has ten.
const QUEUE: usize = 2048;

/// How long the collector may take to answer.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);

/// How long the last spans may take when the gateway goes away.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// Largest answer of a collector that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// A collector that is down is mentioned this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(300);

/// The way to the collector.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Spans will go to this collector, as `http://127.0.0.1:4318`. Must be called in a runtime,
    /// which carries them.
    pub(super) fn to(endpoint: &str) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_DEADLINE)
            .build()
            .map_err(|e| format!("telemetry.otlp_endpoint: {e}"))?;
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE);
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(config.build())
            .build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder()
            .with_service_name("belljar")
            .with_attribute(version);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource.build())
            // Visitors say in `traceparent` what trace they are a part of, not whether it is kept.
            .with_sampler(Sampler::AlwaysOn);
        Ok(Self(provider.build()))
    }

    /// What turns `tracing`'s spans into theirs.
    pub(super) fn layer<S>(&self) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("belljar"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
    }

    /// Send what is left; bounded.
    pub(super) async fn end(self) {
        let ended = spawn_blocking(move || self.0.shutdown_with_timeout(LAST_EXPORT)).await;
        if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

/// A place in somebody else's trace, from W3C's header `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(SpanContext);

impl TraceParent {
    /// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`; `None` if it is not exactly that.
    /// <https://www.w3.org/TR/trace-context/#traceparent-header>
    pub fn parse(header: &str) -> Option<Self> {
        let lower_hex = |text: &str| {
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            text.bytes().all(hex)
        };
        let parts: Vec<&str> = header.splitn(5, '-').collect();
        let ["00", trace, span, flags] = parts[..] else {
            return None;
        };
        let well_formed = trace.len() == 32
            && span.len() == 16
            && flags.len() == 2
            && [trace, span, flags].into_iter().all(lower_hex);
        if !well_formed {
            return None;
        }
        let context = SpanContext::new(
            TraceId::from_hex(trace).ok()?,
            SpanId::from_hex(span).ok()?,
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        context.is_valid().then_some(Self(context))
    }

    /// Make a span that has not begun yet a part of that trace.
    pub fn adopt(self, span: &Span) {
        let context = Context::new().with_remote_span_context(self.0);
        // Fails where nothing is traced.
        let _ = span.set_parent(context);
    }
}

/// Mark the span at hand as failed.
pub fn note_error<E: fmt::Display>(error: &E) {
    let span = Span::current();
    if !span.is_disabled() {
        span.set_status(Status::error(error.to_string()));
    }
}

/// The collector, as the exporter's thread sees it.
#[derive(Debug)]
struct Collector {
    runtime: Handle,
    /// When it was last mentioned that the collector does not take spans.
    complained: Mutex<Option<Instant>>,
}

impl Collector {
    fn new() -> Self {
        Self {
            runtime: Handle::current(),
            complained: Mutex::new(None),
        }
    }

    fn complain(&self, error: &HttpError) {
        let mut complained = self
            .complained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            let remedy = "start the collector, or unset telemetry.otlp_endpoint";
            tracing::warn!(%error, remedy, "traces are lost: the collector does not take them");
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter's thread belongs to no runtime.
        let exchange = async { timeout(EXPORT_DEADLINE, exchange(request)).await };
        let answer = match self.runtime.spawn(exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("it does not answer".into()),
            Err(error) => Err(error.into()),
        };
        let answer = answer.and_then(|answer| match answer.status() {
            status if status.is_success() => Ok(answer),
            status => Err(format!("it answers {status}").into()),
        });
        answer.inspect_err(|error| self.complain(error))
    }
}

/// One request on a connection of its own: there is one every few seconds.
async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().ok_or("no host")?.clone();
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);

    let (mut head, body) = request.into_parts();
    head.headers
        .insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let path = head.uri.path_and_query().ok_or("no path")?;
    head.uri = Uri::from(path.clone());
    let request = Request::from_parts(head, Full::new(body));
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_well_formed_parent_is_believed() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = TraceParent::parse(good).unwrap();
        assert_eq!(
            parent.0.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(parent.0.span_id().to_string(), "b7ad6b7169203331");
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_parent_panics(header in "\\PC{0,70}") {
            let _ = TraceParent::parse(&header);
        }
    }
}
