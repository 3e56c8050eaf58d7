//! `llmbs serve`: recommendations over HTTP, from a model that can be replaced while it answers.
//!
//! Connections are served by one thread, which reads requests and writes answers; the model works on another,
//! which takes all requests that wait at once. Neither waits for the other.

mod answer;
mod fields;
mod hosts;
mod http;
mod metrics;
mod request;
mod search;
mod signals;
mod worker;

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::{HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::response::Response;
use hyper::Request as HttpRequest;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::run::ServiceOptions;
use crate::{Error, Result, interrupt, invalid};
use hosts::Hosts;
use http::{Shared, no_host, route_of, router};
use metrics::Metrics;
use signals::{Signal, Signals};
use worker::Worker;

pub use worker::Open;

pub use answer::{Answer, Fallback, Outcome, answer};
pub use fields::Fields;
pub use request::{Limits, Name, Request, history};

/// Connections that are open at once; more wait until one is closed.
const CONNECTIONS: usize = 256;

/// The longest that a request's head may take to arrive, and a connection be idle.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// The longest that a client may leave an answer unread.
#[cfg(target_os = "linux")]
const UNREAD_TIME: Duration = Duration::from_secs(30);

/// The most bytes of a request's head.
const HEAD: usize = 64 << 10;

/// The longest that requests under way are waited for at the end.
const END_TIME: Duration = Duration::from_secs(30);

/// Serves the model of the run that `open` opens at `address` until a signal asks to stop; SIGHUP has the run
/// opened anew, and its model take the place of the one before. On a loopback address requests are refused that call
/// it by the name of a site, but for those in `named`.
///
/// # Errors
/// If the run cannot be opened or the address not be had at the beginning.
pub fn serve(
    address: SocketAddr,
    named: &[String],
    options: ServiceOptions,
    open: Open,
) -> Result<()> {
    let failed = |e| Error::Invalid(format!("the service cannot be started: {e}"));
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // Nobody waits for a model that is still being loaded, or at work for those who were given up.
    runtime.block_on(serve_in(address, named, options, open))
}

async fn serve_in(
    address: SocketAddr,
    named: &[String],
    options: ServiceOptions,
    open: Open,
) -> Result<()> {
    // SIGHUP would end the program while it loads.
    let mut signals = Signals::take()?;
    // The address first: it is in use more often than a model is slow.
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|e| Error::Invalid(format!("--addr {address}: {e}")))?;
    let address = listener.local_addr().map_err(|e| Error::Invalid(e.to_string()))?;
    let metrics = Arc::new(Metrics::new());
    let load = || Worker::start(open.clone(), options.clone(), metrics.clone());
    let worker = match load().await {
        Ok(worker) => worker?,
        Err(_) => invalid!("no thread could be started for the model"),
    };
    metrics.loads.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::new(Shared::new(worker, metrics.clone()));
    let connections = Connections::new(shared.clone(), Hosts::new(address, named));
    // From here on a signal does not end the program while somebody waits for an answer, nor after the last one: who
    // ends programs at a signal may hear of this one later than we do.
    std::mem::forget(interrupt::Listener::new());
    tracing::info!("listening on http://{address}");

    let mut loading: Option<oneshot::Receiver<Result<Worker>>> = None;
    let mut again = false;
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => match (signal, &loading) {
                (Signal::Stop, _) => break,
                (Signal::Reload, Some(_)) => {
                    tracing::info!("a model is being loaded; the run is loaded again after it");
                    again = true;
                }
                (Signal::Reload, None) => loading = Some(load()),
            },
            loaded = arrival(&mut loading) => {
                // What was changed meanwhile the load may have missed.
                loading = std::mem::take(&mut again).then(&load);
                replace(&shared, loaded);
            }
            () = connections.accept(&listener) => {}
        }
    }
    connections.end(listener).await;
    Ok(())
}

/// What comes of a load, if there is one.
async fn arrival(loading: &mut Option<oneshot::Receiver<Result<Worker>>>) -> Result<Worker> {
    match loading {
        Some(worker) => worker.await.unwrap_or_else(|_| {
            Err(Error::Invalid("its loading ended in a panic, which is a fault of llmbs".into()))
        }),
        None => pending().await,
    }
}

/// Puts a model that was loaded to work; without one, the model before goes on.
fn replace(shared: &Shared, loaded: Result<Worker>) {
    match loaded {
        Ok(worker) => {
            shared.replace(worker);
            shared.metrics.loads.fetch_add(1, Ordering::Relaxed);
            tracing::info!("the model was replaced");
        }
        Err(e) => {
            shared.metrics.failed_loads.fetch_add(1, Ordering::Relaxed);
            tracing::error!("the model could not be replaced, the one before goes on: {e}");
        }
    }
}

/// The connections that are open.
struct Connections {
    router: Router,
    hosts: Arc<Hosts>,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(shared: Arc<Shared>, hosts: Hosts) -> Self {
        Self {
            router: router(shared.clone()),
            hosts: Arc::new(hosts),
            shared,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            graceful: GracefulShutdown::new(),
        }
    }

    /// Takes in the next connection once there is a place for it.
    async fn accept(&self, listener: &TcpListener) {
        let Ok(place) = self.places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Of one connection, or of the system: too many open files pass only with time.
                tracing::warn!("a connection could not be taken: {e}");
                return sleep(Duration::from_millis(20)).await;
            }
        };
        cut_if_unread(&stream);
        let (shared, hosts) = (self.shared.clone(), self.hosts.clone());
        let routes = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |request| {
            answer_one(routes.clone(), shared.clone(), hosts.clone(), request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        let metrics = self.shared.metrics.clone();
        tokio::spawn(async move {
            metrics.connections.fetch_add(1, Ordering::Relaxed);
            if let Err(e) = connection.await {
                tracing::debug!("a connection ended: {e}");
            }
            metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }

    /// Takes in the connections that are there, answers what is under way, and closes them all.
    async fn end(self, listener: TcpListener) {
        while timeout(Duration::ZERO, self.accept(&listener)).await.is_ok() {}
        drop(listener);
        if timeout(END_TIME, self.graceful.shutdown()).await.is_err() {
            let seconds = END_TIME.as_secs();
            tracing::warn!("connections that were open for {seconds} s more were cut off");
        }
    }
}

/// Answers a request and counts it.
async fn answer_one(
    routes: TowerToHyperService<Router>,
    shared: Arc<Shared>,
    hosts: Arc<Hosts>,
    request: HttpRequest<Incoming>,
) -> std::result::Result<Response, Infallible> {
    let (start, route) = (Instant::now(), route_of(request.uri().path()));
    let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
    let mut response = match host.filter(|host| !hosts.have(host)) {
        Some(host) => no_host(&host),
        None => routes.call(request).await?,
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    shared.metrics.request(route, response.status().as_u16(), start.elapsed());
    Ok(response)
}

/// Has the system close a connection whose client does not take what is sent to it.
#[cfg(target_os = "linux")]
fn cut_if_unread(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_TIME.as_millis() as u32);
}

#[cfg(not(target_os = "linux"))]
fn cut_if_unread(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}
