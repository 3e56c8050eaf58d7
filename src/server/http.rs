//! The routes: what is asked over HTTP, within which limits, and how the answer is written.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::{Answer, Outcome};
use super::fields::read_fields;
use super::hosts::plain;
use super::metrics::Metrics;
use super::request::{Form, Limits};
use super::worker::{Full, Job, Task, Worker};
use crate::error::short;

/// The most bytes of a body.
const BODY: usize = 1 << 20;

/// The longest that a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The longest that an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How much one request may ask for: what it costs grows with each of these.
const LIMITS: Limits = Limits { top: 1000, items: 1000, only: 10_000, text: 10_000, fields: 64 };

/// The most items that a search for items finds, and how many it does unless told.
const FOUND: usize = 100;
/// Words that items are found by at most.
const WORDS: usize = 20;
const FOUND_UNLESS_TOLD: usize = 20;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The routes, by which requests are counted.
const ROUTES: [&str; 6] = ["/", "/recommend", "/items", "/healthz", "/metrics", "/openapi.json"];

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    worker: RwLock<Arc<Worker>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    pub(super) fn new(worker: Worker, metrics: Arc<Metrics>) -> Self {
        Self { worker: RwLock::new(Arc::new(worker)), metrics }
    }

    /// Who takes requests now.
    fn worker(&self) -> Arc<Worker> {
        self.worker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on `worker` takes requests; the one before answers what it has.
    pub(super) fn replace(&self, worker: Worker) {
        *self.worker.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(worker);
    }
}

/// What is wrong with a request, or with us.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json(&json!({"error": self.1}));
        let mut response = (self.0, [(CONTENT_TYPE, JSON)], body).into_response();
        if self.0 == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The service's routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/recommend", post(recommend))
        .route("/items", get(items))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(shared)
}

/// The answer to who calls the service by a name that is not its own.
pub(super) fn no_host(host: &str) -> Response {
    let told = format!(
        "{} is no name of this service: `llmbs serve --host NAME` gives it one",
        short(plain(host))
    );
    Refusal(StatusCode::MISDIRECTED_REQUEST, told).into_response()
}

/// The name under which a request to `path` is counted.
pub(super) fn route_of(path: &str) -> &'static str {
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

fn json(value: &impl Serialize) -> String {
    // Maps with text keys and plain values: nothing of it can fail.
    serde_json::to_string(value).unwrap_or_default()
}

async fn recommend(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    check_type(&parts.headers)?;
    let body = read(body).await?;
    let deadline = Instant::now() + ANSWER_TIME;
    let refused = |status| move |e: crate::Error| Refusal(status, e.to_string());
    let fields = read_fields(&body, LIMITS.fields).map_err(refused(StatusCode::BAD_REQUEST))?;
    drop(body);
    let form = Form::new(&fields, &LIMITS).map_err(refused(StatusCode::UNPROCESSABLE_ENTITY))?;
    let (reply, answer) = oneshot::channel();
    ask(&shared, Task::Recommend { fields, form, reply }, deadline)?;
    match wait(answer).await?.map_err(refused(StatusCode::INTERNAL_SERVER_ERROR))? {
        Answer { outcome: Outcome::Error { error, .. }, .. } => {
            Err(Refusal(StatusCode::CONFLICT, error))
        }
        answer => Ok(([(CONTENT_TYPE, JSON)], json(&answer)).into_response()),
    }
}

/// A form that any page may send to any host has no such type.
fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = String::from_utf8_lossy(given);
    let plain = given.split(';').next().unwrap_or_default().trim();
    if plain.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let what = format!("send the header Content-Type: application/json, not {:?}", short(&given));
    Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, what))
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let too_large = || {
        let what = format!("the body has more than {BODY} bytes");
        Refusal(StatusCode::PAYLOAD_TOO_LARGE, what)
    };
    // Said beforehand: it need not be sent.
    if body.size_hint().lower() > BODY as u64 {
        return Err(too_large());
    }
    let Ok(read) = timeout(BODY_TIME, Limited::new(body, BODY).collect()).await else {
        let what = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
        return Err(Refusal(StatusCode::REQUEST_TIMEOUT, what));
    };
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(e) => Err(Refusal(StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}"))),
    }
}

fn ask(shared: &Shared, task: Task, deadline: Instant) -> Result<(), Refusal> {
    shared.worker().give(Job { task, deadline }).map_err(|Full| {
        Refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait: ask again later".into())
    })
}

async fn wait<T>(answer: oneshot::Receiver<T>) -> Result<T, Refusal> {
    match timeout(ANSWER_TIME, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => {
            let what = "the request could not be answered, which is a fault of llmbs";
            Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, what.into()))
        }
        Err(_) => {
            let what = format!("there was no answer within {} s", ANSWER_TIME.as_secs());
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, what))
        }
    }
}

async fn items(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Refusal> {
    let (mut words, mut top) = (String::new(), FOUND_UNLESS_TOLD);
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            "words" if value.split_whitespace().count() > WORDS => {
                let what = format!("words must be {WORDS} at most");
                return Err(Refusal(StatusCode::BAD_REQUEST, what));
            }
            "words" => words = value.into_owned(),
            "top" => {
                let given = value.parse().ok().filter(|top| (1..=FOUND).contains(top));
                top = given.ok_or_else(|| {
                    let found = short(&value);
                    let what = format!("top must be a number from 1 to {FOUND}, found {found:?}");
                    Refusal(StatusCode::BAD_REQUEST, what)
                })?;
            }
            _ => {
                let name = short(&name);
                let what = format!("there is no parameter {name:?}: words and top are all");
                return Err(Refusal(StatusCode::BAD_REQUEST, what));
            }
        }
    }
    let (reply, found) = oneshot::channel();
    ask(&shared, Task::Search { words, top, reply }, Instant::now() + ANSWER_TIME)?;
    let items = wait(found).await?;
    Ok(([(CONTENT_TYPE, JSON)], json(&json!({"items": items}))).into_response())
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    ([(CONTENT_TYPE, JSON)], json(&shared.worker().about)).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], shared.metrics.text()).into_response()
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, JSON)], include_str!("openapi.json")).into_response()
}

async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; \
                 script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; \
                 frame-ancestors 'none'",
            ),
        ),
    ];
    (headers, include_str!("page.html")).into_response()
}

async fn no_route(uri: Uri) -> Refusal {
    let path = short(uri.path());
    let routes = ROUTES.join(", ");
    Refusal(StatusCode::NOT_FOUND, format!("there is no {path}; the routes are {routes}"))
}

async fn no_method(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    let what = format!("{path} is not asked by {method}: see the header Allow, or /openapi.json");
    Refusal(StatusCode::METHOD_NOT_ALLOWED, what)
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::server::worker::{QUEUE, idle};

    #[test]
    fn too_many_words_and_a_full_queue_are_told() {
        let metrics = Arc::new(Metrics::new());
        let (worker, _jobs) = idle(metrics.clone());
        let shared = Arc::new(Shared::new(worker, metrics.clone()));
        let task = || Task::Search { words: String::new(), top: 1, reply: oneshot::channel().0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let routes = TowerToHyperService::new(router(Arc::clone(&shared)));
        let many = format!("/items?words={}", "s+".repeat(WORDS + 1));
        let request = axum::http::Request::get(many).body(Body::empty()).unwrap();
        let response = runtime.block_on(routes.call(request)).unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        for _ in 0..QUEUE {
            assert!(ask(&shared, task(), Instant::now()).is_ok());
        }
        let routes = TowerToHyperService::new(router(shared));
        let request = axum::http::Request::post("/recommend").header(CONTENT_TYPE, JSON);
        let request = request.body(Body::from("{\"user\": \"u\"}")).unwrap();
        let response = runtime.block_on(routes.call(request)).unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(metrics.text().contains(&format!("\nllmbs_waiting_requests {QUEUE}\n")));
    }
}
