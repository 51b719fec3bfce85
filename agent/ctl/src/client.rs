//! Asks the manxd of this node: HTTP over its unix socket.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use manx_api::ApiError;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use crate::left_behind;

/// Any part of an answer takes milliseconds; a daemon that is stopped never gives one.
const DEADLINE: Duration = Duration::from_secs(10);
/// Far above the largest answer, a table of a million routes.
const LARGEST_ANSWER: usize = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody serves the socket: the daemon does not run, or runs with another `--api-socket`.
    #[error("nobody answers at {socket} ({reason}); start manxd, or name its socket with --socket{left}")]
    NotRunning { socket: String, reason: String, left: String },
    #[error("may not open {socket}: be root or of the socket's group")]
    Denied { socket: String },
    #[error("manxd at {socket} did not answer within {} s: is it stopped?", DEADLINE.as_secs())]
    Silent { socket: String },
    #[error("manxd at {socket}: {source}")]
    Transport { socket: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{0}")]
    Refused(String),
    #[error(
        "manxd at {socket} answered something that this manxctl does not understand ({source}); are both of one version?"
    )]
    Answer { socket: String, source: serde_json::Error },
}

/// `GET path` from the daemon behind `socket`.
pub fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    request(socket, Method::GET, path, Bytes::new())
}

/// `POST path`: the daemon is to do something.
pub fn order<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    request(socket, Method::POST, path, Bytes::new())
}

/// As [`order`], with what is to be done as JSON.
pub fn order_with<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<T, AskError> {
    let body = serde_json::to_vec(body).map_err(|source| AskError::Transport {
        socket: socket.display().to_string(),
        source: source.into(),
    })?;
    request(socket, Method::POST, path, body.into())
}

fn request<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, AskError> {
    let name = socket.display().to_string();
    let transport = |source: Box<dyn std::error::Error + Send + Sync>| AskError::Transport {
        socket: name.clone(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| transport(e.into()))?;
    let (status, body) = runtime.block_on(send(socket, method, path, body))?;
    if !status.is_success() {
        let reason =
            serde_json::from_slice::<ApiError>(&body).map_or_else(|_| status.to_string(), |e| e.error);
        return Err(AskError::Refused(reason));
    }
    serde_json::from_slice(&body).map_err(|source| AskError::Answer { socket: name, source })
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), AskError> {
    let name = socket.display().to_string();
    let transport = |source: Box<dyn std::error::Error + Send + Sync>| AskError::Transport {
        socket: name.clone(),
        source,
    };
    let silent = |_| AskError::Silent { socket: name.clone() };
    let stream =
        timeout(DEADLINE, UnixStream::connect(socket)).await.map_err(silent)?.map_err(
            |source| match source.kind() {
                io::ErrorKind::PermissionDenied => AskError::Denied { socket: name.clone() },
                _ => AskError::NotRunning {
                    socket: name.clone(),
                    reason: words(&source),
                    left: left_behind::hint(),
                },
            },
        )?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| transport(e.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "manxd")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| transport(e.into()))?;
    let answer = async {
        let sent = timeout(DEADLINE, sender.send_request(request)).await.map_err(silent)?;
        let response = sent.map_err(|e| transport(e.into()))?;
        let status = response.status();
        let mut body = Limited::new(response.into_body(), LARGEST_ANSWER);
        let mut text = Vec::new();
        // A long answer comes in parts, as the daemon has time for them.
        while let Some(frame) = timeout(DEADLINE, body.frame()).await.map_err(silent)? {
            text.extend(frame.map_err(transport)?.into_data().unwrap_or_default());
        }
        Ok((status, text.into()))
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ends first when the daemon closes after its answer: what it sent is read still.
        closed = &mut connection => match closed {
            Ok(()) => answer.await,
            Err(error) => Err(transport(error.into())),
        },
    }
}

/// A value in a query: what could end it, or is no visible ASCII, as %XX (RFC 3986 §2.1).
pub fn escaped(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b".:/-_".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The kernel's words without the number that Rust appends.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_types_stays_within_its_query() {
        assert_eq!(escaped("fd00::/64"), "fd00::/64");
        assert_eq!(escaped("a&b c\u{e9}"), "a%26b%20c%C3%A9");
    }
}
