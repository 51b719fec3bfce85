//! A connection to etcd: endpoints from the URL, user and certificates from the variables that Calico's programs read.

use std::{env, fs, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};

use super::Etcd;

const CONNECT: Duration = Duration::from_secs(3);
/// A connection on which nothing comes is tried so often, and given up after so long without an answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

const USERNAME: &str = "ETCD_USERNAME";
const PASSWORD: &str = "ETCD_PASSWORD";
const CA: &str = "ETCD_CA_CERT_FILE";
const CERTIFICATE: &str = "ETCD_CERT_FILE";
const KEY: &str = "ETCD_KEY_FILE";

pub(super) async fn connect(etcd: &Etcd) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the others would answer with what was.
        .with_require_leader(true);
    match (variable(USERNAME)?, variable(PASSWORD)?) {
        (Some(user), Some(password)) => options = options.with_user(user, password),
        (None, None) => {}
        (Some(_), None) => return Err(format!("{USERNAME} is set and {PASSWORD} is not")),
        (None, Some(_)) => return Err(format!("{PASSWORD} is set and {USERNAME} is not")),
    }
    let scheme = if etcd.tls {
        options = options.with_tls(certificates()?);
        "https"
    } else {
        "http"
    };
    let endpoints: Vec<String> = etcd.endpoints.iter().map(|host| format!("{scheme}://{host}")).collect();
    Client::connect(endpoints, Some(options)).await.map_err(|error| said(&error))
}

fn certificates() -> Result<TlsOptions, String> {
    let ca =
        file(CA)?.ok_or_else(|| format!("etcds needs {CA}, the certificates of whoever signed etcd's"))?;
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    match (file(CERTIFICATE)?, file(KEY)?) {
        (Some(certificate), Some(key)) => tls = tls.identity(Identity::from_pem(certificate, key)),
        (None, None) => {}
        _ => return Err(format!("of {CERTIFICATE} and {KEY} only one is set")),
    }
    Ok(tls)
}

/// An empty one is as none.
fn variable(name: &str) -> Result<Option<String>, String> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name} is no text")),
    }
}

fn file(name: &str) -> Result<Option<Vec<u8>>, String> {
    let read = |path: String| fs::read(&path).map_err(|error| format!("{name}: cannot read {path}: {error}"));
    variable(name)?.map(read).transpose()
}

/// An error in its own words and those of its causes.
pub(super) fn said(error: &Error) -> String {
    let (first, mut cause): (String, Option<&dyn std::error::Error>) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), std::error::Error::source(status)),
        Error::TransportError(error) => (error.to_string(), std::error::Error::source(error)),
        error => (error.to_string(), None),
    };
    let mut words = vec![first];
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.iter().any(|word| word.contains(&text)) {
            words.push(text);
        }
        cause = error.source();
    }
    words.join(": ")
}
