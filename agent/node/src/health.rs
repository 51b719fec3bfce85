//! `/readyz` and `/livez`, for kubelet and load balancers: on the local API's socket, and by plain HTTP at an address
//! of one's own, where nothing else is answered.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use manx_api::{Readiness, path};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::api::Question;

/// A loop that has not come round for so long is stuck.
const ALIVE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(5);

pub fn router(questions: mpsc::Sender<Question>) -> Router {
    Router::new().route(path::READY, get(ready)).route(path::LIVE, get(live)).with_state(questions)
}

/// Serves this, and nothing else, at an address as soon as it can be had, until the daemon ends.
pub async fn serve(address: SocketAddr, router: Router, what: &'static str) {
    let mut said = None;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::error!(
                        "cannot answer {what} at {address}: {error}; trying again every {} s",
                        AGAIN.as_secs()
                    );
                    said = Some(error);
                }
                sleep(AGAIN).await;
            }
        }
    };
    tracing::info!("answering {what} at {address}");
    let router = router.fallback(move |uri: Uri| unknown(uri, what));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!("{what} at {address} is not answered any more: {error}");
    }
}

async fn unknown(uri: Uri, what: &'static str) -> Response {
    let text = format!("there is no {}; ask for {what}\n", uri.path());
    (StatusCode::NOT_FOUND, text).into_response()
}

#[derive(Deserialize)]
struct ReadyQuery {
    #[serde(default)]
    format: String,
}

async fn ready(State(questions): State<mpsc::Sender<Question>>, Query(query): Query<ReadyQuery>) -> Response {
    let readiness = match ask(&questions).await {
        Ok(readiness) => readiness,
        Err(stuck) => Readiness { ready: false, reason: Some(stuck), down: Vec::new() },
    };
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if query.format == "json" {
        return axum::Json(readiness).into_response();
    }
    let mut text = match &readiness.reason {
        None => String::from("ready\n"),
        Some(reason) => format!("manxd is not ready: {reason}\n"),
    };
    for peer in &readiness.down {
        text.push_str(peer);
        text.push('\n');
    }
    (code, text).into_response()
}

async fn live(State(questions): State<mpsc::Sender<Question>>) -> Response {
    match ask(&questions).await {
        Ok(_) => "live\n".into_response(),
        Err(stuck) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("manxd is not live: {stuck}\n")).into_response()
        }
    }
}

async fn ask(questions: &mpsc::Sender<Question>) -> Result<Readiness, String> {
    let (answer, answered) = oneshot::channel();
    let question = async {
        questions.send(Question::Ready(answer)).await.map_err(|_| ())?;
        answered.await.map_err(|_| ())
    };
    match timeout(ALIVE, question).await {
        Ok(Ok(readiness)) => Ok(readiness),
        Ok(Err(())) => Err("it is stopping".to_owned()),
        Err(_) => Err(format!("its loop has not come round for {} s", ALIVE.as_secs())),
    }
}
