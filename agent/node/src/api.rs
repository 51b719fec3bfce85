//! The local API: HTTP/JSON on a unix socket. Handlers only pass the question to the daemon's loop, which owns
//! all state, and its answer back.

use std::{error::Error, io, net::IpAddr, num::NonZeroUsize, path::Path, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Query, State, connect_info::Connected, rejection::JsonRejection},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use futures_util::stream::try_unfold;
use manx_api::{AddBlackholes, ApiError, DeleteBlackholes, LogLevel, LogLines, MapAction, path};
use manx_net::Prefix;
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    audit,
    gather::{Found, Gather, Piece, Stopping},
    health, logging, metrics, traffic,
    unix_socket::Place,
};

/// How often an answer that takes long shows that it is coming.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

#[derive(Clone, Debug)]
pub enum Subject {
    Status,
    Plan,
    /// With what the sinks have for the prefix.
    Explain(Box<Found>),
    /// The longest prefix that covers an address.
    Longest(IpAddr),
    History(Option<IpAddr>),
    Peer(IpAddr, PeerOrder),
    Drain(DrainOrder),
    Dataplane,
    Counters,
    /// With what the sinks have for each.
    Blackholes(Vec<Found>),
    /// With the user id of whoever asks.
    AddBlackholes(Box<AddBlackholes>, Option<u32>),
    DeleteBlackholes(Vec<Prefix>, Option<u32>),
}

/// What is to become of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainOrder {
    Tell,
    Drain { text: String, at_once: bool },
    Undrain,
}

/// What is to become of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerOrder {
    Refresh,
    Disable { text: String },
    Enable,
}

/// One request on its way to the daemon's loop.
#[derive(Debug)]
pub enum Question {
    Whole {
        subject: Subject,
        answer: oneshot::Sender<Answer>,
    },
    /// Of an answer that is too long for one turn of the loop.
    Piece(Piece),
    Ready(oneshot::Sender<manx_api::Readiness>),
    Metrics(oneshot::Sender<Box<metrics::Raw>>),
}

/// An answer, or why there is none.
#[derive(Debug)]
pub enum Answer {
    /// A JSON document.
    Json(Vec<u8>),
    Longest(Option<Prefix>),
    /// Not now: for instance before the first plan.
    Unavailable(String),
    /// There is nothing of that name.
    Unknown(String),
    /// It must not be.
    Refused(String),
}

/// Ends, and its file with it, when dropped.
#[derive(Debug)]
pub struct Socket {
    place: Place,
    server: JoinHandle<()>,
}

impl Socket {
    /// False if somebody removed it: then nobody can ask any more.
    pub fn is_there(&self) -> bool {
        self.place.is_there()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Listens and serves in a task of its own.
pub fn serve(path: &Path, questions: mpsc::Sender<Question>) -> anyhow::Result<Socket> {
    let (listener, place) =
        Place::listen(path, "by another manxd; stop it, or give this one an --api-socket of its own")?;
    let service = router(questions).into_make_service_with_connect_info::<Caller>();
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!("the local API has ended: {error}");
        }
    });
    Ok(Socket { place, server })
}

fn router(questions: mpsc::Sender<Question>) -> Router {
    let subject = |subject: Subject| get(move |State(questions)| ask(questions, subject));
    let order = |order: fn(String) -> PeerOrder| {
        post(move |State(questions), Query(query): Query<OrderQuery>| {
            ask(questions, Subject::Peer(query.peer, order(query.text)))
        })
    };
    Router::new()
        .route(path::STATUS, subject(Subject::Status))
        .route(path::PLAN, subject(Subject::Plan))
        .route(path::ROUTES, get(routes))
        .route(path::EXPLAIN, get(explain))
        .route(path::HISTORY, get(history))
        .route(path::DATAPLANE, subject(Subject::Dataplane))
        .route(path::COUNTERS, subject(Subject::Counters))
        .route(path::MAP_ROUTES, get(map_routes))
        .route(path::PREFIX_COUNTERS, get(prefix_counters))
        .route(path::NEXT_HOP_COUNTERS, get(next_hop_counters))
        .route(path::TOP, get(top))
        .route(path::AUDIT, post(audit))
        .route(path::REFRESH, order(|_| PeerOrder::Refresh))
        .route(path::DISABLE, order(|text| PeerOrder::Disable { text }))
        .route(path::ENABLE, order(|_| PeerOrder::Enable))
        .route(path::DRAIN, subject(Subject::Drain(DrainOrder::Tell)).post(drain))
        .route(path::UNDRAIN, post(|State(questions)| ask(questions, Subject::Drain(DrainOrder::Undrain))))
        .route(path::LOG_LEVEL, get(log_level).post(set_log_level))
        .route(path::LOG, get(log))
        .route(path::BLACKHOLES, get(blackholes))
        .route(path::BLACKHOLE_ADD, post(add_blackholes))
        .route(path::BLACKHOLE_DELETE, post(delete_blackholes))
        .fallback(unknown)
        .with_state(questions.clone())
        .merge(health::router(questions.clone()))
        .merge(metrics::router(questions))
}

async fn ask(questions: mpsc::Sender<Question>, subject: Subject) -> Response {
    match answer(&questions, subject).await {
        Ok(Answer::Json(body)) => (JSON, body).into_response(),
        Ok(Answer::Longest(prefix)) => axum::Json(prefix).into_response(),
        Ok(Answer::Unknown(what)) => failure(StatusCode::NOT_FOUND, what),
        Ok(Answer::Refused(why)) => failure(StatusCode::CONFLICT, why),
        Ok(Answer::Unavailable(why)) => failure(StatusCode::SERVICE_UNAVAILABLE, why),
        Err(stopping) => stopping.into_response(),
    }
}

async fn answer(questions: &mpsc::Sender<Question>, subject: Subject) -> Result<Answer, Stopping> {
    let (answer, answered) = oneshot::channel();
    questions.send(Question::Whole { subject, answer }).await.map_err(|_| Stopping)?;
    answered.await.map_err(|_| Stopping)
}

impl IntoResponse for Stopping {
    fn into_response(self) -> Response {
        failure(StatusCode::SERVICE_UNAVAILABLE, self.to_string())
    }
}

#[derive(Deserialize)]
struct RoutesQuery {
    after: Option<Prefix>,
    limit: Option<NonZeroUsize>,
}

async fn routes(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<RoutesQuery>,
) -> Result<Response, Stopping> {
    let limit = query.limit.unwrap_or(NonZeroUsize::MAX);
    let body = Gather::begin(questions).await?.routes(query.after, limit).await?;
    Ok((JSON, body).into_response())
}

#[derive(Deserialize)]
struct ExplainQuery {
    prefix: String,
}

async fn explain(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<ExplainQuery>,
) -> Result<Response, Stopping> {
    let prefix = match (query.prefix.parse::<Prefix>(), query.prefix.parse::<IpAddr>()) {
        (Ok(prefix), _) => prefix,
        (_, Ok(address)) => match longest(&questions, address).await? {
            Some(prefix) => prefix,
            None => {
                let text = format!(
                    "no prefix that this node knows covers {address}; the kernel decides by its other routes"
                );
                return Ok(failure(StatusCode::NOT_FOUND, text));
            }
        },
        (Err(error), Err(_)) => return Ok(failure(StatusCode::BAD_REQUEST, error.to_string())),
    };
    let found = Gather::begin(questions.clone()).await?.find(prefix).await?;
    Ok(ask(questions, Subject::Explain(Box::new(found))).await)
}

async fn longest(questions: &mpsc::Sender<Question>, address: IpAddr) -> Result<Option<Prefix>, Stopping> {
    match answer(questions, Subject::Longest(address)).await? {
        Answer::Longest(prefix) => Ok(prefix),
        _ => Err(Stopping),
    }
}

#[derive(Deserialize)]
struct DrainQuery {
    #[serde(default)]
    text: String,
    #[serde(default)]
    now: bool,
}

async fn drain(State(questions): State<mpsc::Sender<Question>>, Query(query): Query<DrainQuery>) -> Response {
    ask(questions, Subject::Drain(DrainOrder::Drain { text: query.text, at_once: query.now })).await
}

#[derive(Deserialize)]
struct HistoryQuery {
    peer: Option<IpAddr>,
}

async fn history(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<HistoryQuery>,
) -> Response {
    ask(questions, Subject::History(query.peer)).await
}

/// Who is at the other end of the socket, by the kernel's word.
#[derive(Clone, Copy, Debug)]
struct Caller {
    user_id: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Caller {
        Caller { user_id: stream.io().peer_cred().ok().map(|caller| caller.uid()) }
    }
}

/// The log is nobody's but its own: the loop is not asked.
async fn log_level() -> Response {
    match logging::level() {
        Some(level) => axum::Json(LogLevel { level, before: None }).into_response(),
        None => failure(StatusCode::SERVICE_UNAVAILABLE, "there is no log".to_owned()),
    }
}

async fn log() -> Response {
    axum::Json(LogLines { lines: logging::last() }).into_response()
}

#[derive(Deserialize)]
struct LogLevelQuery {
    level: String,
}

async fn set_log_level(
    Query(query): Query<LogLevelQuery>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Response {
    let before = logging::level();
    if let Err(error) = logging::set_level(&query.level) {
        return failure(StatusCode::BAD_REQUEST, format!("{error:#}"));
    }
    // Said at each level, for whoever reads the log later wonders.
    tracing::error!(
        user_id = caller.user_id,
        "the log level is {} now, by order; it was {}",
        query.level,
        before.as_deref().unwrap_or("unknown")
    );
    axum::Json(LogLevel { level: query.level, before }).into_response()
}

#[derive(Deserialize)]
struct BlackholesQuery {
    #[serde(default)]
    all: bool,
}

async fn blackholes(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<BlackholesQuery>,
) -> Result<Response, Stopping> {
    let found = Gather::begin(questions.clone()).await?.blackholes(query.all).await?;
    Ok(ask(questions, Subject::Blackholes(found)).await)
}

async fn add_blackholes(
    State(questions): State<mpsc::Sender<Question>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    order: Result<Json<AddBlackholes>, JsonRejection>,
) -> Response {
    match order {
        Ok(Json(order)) => ask(questions, Subject::AddBlackholes(Box::new(order), caller.user_id)).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, error.body_text()),
    }
}

async fn delete_blackholes(
    State(questions): State<mpsc::Sender<Question>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    order: Result<Json<DeleteBlackholes>, JsonRejection>,
) -> Response {
    match order {
        Ok(Json(order)) => ask(questions, Subject::DeleteBlackholes(order.prefixes, caller.user_id)).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, error.body_text()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuditQuery {
    #[serde(default)]
    dry_run: bool,
}

/// It goes on to its end even if nobody waits for it any more.
async fn audit(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Stopping> {
    let Some(turn) = audit::turn(questions).await? else {
        let why = String::from("this manxd writes no routes and loads no programs (--dataplane off)");
        return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    Ok(slowly(turn.take(query.dry_run)))
}

/// An answer that takes longer than a client should wait for a sign of life: white space, which JSON does not mind,
/// comes until it is there.
fn slowly<T: Serialize + Send + 'static, E: Error + Send + Sync + 'static>(
    answer: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Response {
    let answer = tokio::spawn(answer);
    let body = try_unfold(Some(answer), |answer| async move {
        let Some(mut answer) = answer else { return Ok(None) };
        match timeout(SIGN_OF_LIFE, &mut answer).await {
            Err(_) => Ok(Some((Bytes::from_static(b"\n"), Some(answer)))),
            Ok(ended) => {
                let answer = ended.map_err(io::Error::other)?.map_err(io::Error::other)?;
                Ok::<_, io::Error>(Some((serde_json::to_vec(&answer)?.into(), None)))
            }
        }
    });
    (JSON, Body::from_stream(body)).into_response()
}

impl IntoResponse for traffic::Failure {
    fn into_response(self) -> Response {
        failure(StatusCode::SERVICE_UNAVAILABLE, self.to_string())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MapRoutesQuery {
    prefix: Option<String>,
    next_hop: Option<IpAddr>,
    action: Option<MapAction>,
    after: Option<Prefix>,
    limit: Option<NonZeroUsize>,
}

async fn map_routes(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<MapRoutesQuery>,
) -> Result<Response, traffic::Failure> {
    let (within, covering) = match query.prefix.as_deref().map(|text| (text.parse(), text.parse())) {
        None => (None, None),
        Some((_, Ok(address))) => (None, Some(address)),
        Some((Ok(prefix), _)) => (Some(prefix), None),
        Some((Err(error), _)) => {
            let error: manx_net::ParsePrefixError = error;
            return Ok(failure(StatusCode::BAD_REQUEST, error.to_string()));
        }
    };
    let MapRoutesQuery { next_hop, action, after, limit, .. } = query;
    let filter = traffic::Filter { within, covering, next_hop, action, after };
    let found = traffic::routes(&questions, filter, limit.unwrap_or(NonZeroUsize::MAX)).await?;
    Ok(axum::Json(found).into_response())
}

async fn prefix_counters(
    State(questions): State<mpsc::Sender<Question>>,
) -> Result<Response, traffic::Failure> {
    Ok(axum::Json(traffic::by_prefix(&questions).await?).into_response())
}

async fn next_hop_counters(
    State(questions): State<mpsc::Sender<Question>>,
) -> Result<Response, traffic::Failure> {
    Ok(axum::Json(traffic::by_next_hop(&questions).await?).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopQuery {
    interval_ms: Option<u64>,
    limit: Option<usize>,
}

async fn top(
    State(questions): State<mpsc::Sender<Question>>,
    Query(query): Query<TopQuery>,
) -> Result<Response, traffic::Failure> {
    let interval = Duration::from_millis(query.interval_ms.unwrap_or(1000).clamp(100, 60_000));
    // What cannot be had is better said before the white space begins.
    traffic::maps(&questions).await?;
    Ok(slowly(traffic::top(questions, interval, query.limit.unwrap_or(usize::MAX))))
}

#[derive(Deserialize)]
struct OrderQuery {
    peer: IpAddr,
    #[serde(default)]
    text: String,
}

async fn unknown(uri: Uri) -> Response {
    let known = [
        path::STATUS,
        path::PLAN,
        path::ROUTES,
        path::EXPLAIN,
        path::HISTORY,
        path::DATAPLANE,
        path::COUNTERS,
        path::MAP_ROUTES,
        path::PREFIX_COUNTERS,
        path::NEXT_HOP_COUNTERS,
        path::TOP,
        path::AUDIT,
        path::REFRESH,
        path::DISABLE,
        path::ENABLE,
        path::BLACKHOLES,
        path::BLACKHOLE_ADD,
        path::BLACKHOLE_DELETE,
    ]
    .join(", ");
    failure(StatusCode::NOT_FOUND, format!("there is no {}; there are {known}", uri.path()))
}

fn failure(status: StatusCode, error: String) -> Response {
    (status, axum::Json(ApiError { error })).into_response()
}
