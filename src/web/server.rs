//! Connections: accepted, limited, and let go in order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::patience::Patient;
use super::{WebState, router};

/// What a server takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections at once; others wait to be accepted.
    pub connections: usize,
    /// How long a client may take to read an answer. One that reads nothing would keep its connection for ever.
    pub read_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS, read_within: READ_WITHIN }
    }
}

/// More than a company's open browser tabs, few enough to leave the reconciler its file descriptors.
const MAX_CONNECTIONS: usize = 512;
/// Enough for the longest page over a bad line.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// How long a client may take to send the head of a request, and how long an idle connection is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// The most that is kept of a request's head while it arrives.
const HEAD_BUFFER: usize = 64 * 1024;
/// How long answers that are under way may take once the server is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long to wait after a failed accept: the cause, such as no file descriptors left, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves `state` on `listener` until `shutdown` is over, then lets answers that are under way end.
pub async fn serve(listener: TcpListener, state: WebState, shutdown: impl Future<Output = ()>) {
    serve_within(Limits::default(), listener, state, shutdown).await;
}

/// The same, within other limits.
pub async fn serve_within(limits: Limits, listener: TcpListener, state: WebState, shutdown: impl Future<Output = ()>) {
    let app = router(state);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer, permit) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let app = app.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = TowerToHyperService::new(app.clone()).call(request);
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never: Infallible| match never {})) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BUFFER)
            .serve_connection(TokioIo::new(Patient::new(stream, limits.read_within)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %peer, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were still open when the server stopped");
    }
}

/// The next connection, once there is room for one.
async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let permit = Arc::clone(connections).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
