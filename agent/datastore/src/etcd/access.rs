//! A connection to etcd: endpoints from the URL, user and certificates from the variables that Calico's programs read; or
//! all of it from calicoctl's configuration file.

use std::{env, fmt, fs, time::Duration};

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

/// Who asks, and whom it trusts.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Name and password.
    pub user: Option<(String, String)>,
    /// The client's certificate and its key.
    pub identity: Option<(Pem, Pem)>,
    /// The certificates of whoever signed etcd's.
    pub ca: Option<Pem>,
}

/// A certificate or a key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    /// In a file, which this field or variable names.
    File {
        name: &'static str,
        path: String,
    },
    Text(String),
}

/// Without what is secret.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

impl Pem {
    fn read(self) -> Result<Vec<u8>, String> {
        match self {
            Pem::Text(text) => Ok(text.into_bytes()),
            Pem::File { name, path } => {
                fs::read(&path).map_err(|error| format!("{name}: cannot read {path}: {error}"))
            }
        }
    }
}

impl Access {
    /// By the variables that Calico's programs read.
    fn of_environment() -> Result<Access, String> {
        let user = match (variable(USERNAME)?, variable(PASSWORD)?) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => return Err(format!("{USERNAME} is set and {PASSWORD} is not")),
            (None, Some(_)) => return Err(format!("{PASSWORD} is set and {USERNAME} is not")),
        };
        let file = |name| Ok::<_, String>(variable(name)?.map(|path| Pem::File { name, path }));
        let identity = match (file(CERTIFICATE)?, file(KEY)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(format!("of {CERTIFICATE} and {KEY} only one is set")),
        };
        Ok(Access { user, identity, ca: file(CA)? })
    }

    fn tls(self) -> Result<TlsOptions, String> {
        let ca = self.ca.ok_or_else(|| {
            format!("etcds needs {CA} (in calicoctl's file etcdCACertFile), the certificates of whoever signed etcd's")
        })?;
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca.read()?));
        if let Some((certificate, key)) = self.identity {
            tls = tls.identity(Identity::from_pem(certificate.read()?, key.read()?));
        }
        Ok(tls)
    }
}

pub(super) async fn connect(etcd: &Etcd) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the others would answer with what was.
        .with_require_leader(true);
    let access = etcd.access.clone().map_or_else(Access::of_environment, Ok)?;
    if let Some((user, password)) = &access.user {
        options = options.with_user(user, password);
    }
    let scheme = if etcd.tls {
        options = options.with_tls(access.tls()?);
        "https"
    } else {
        "http"
    };
    let endpoints: Vec<String> = etcd.endpoints.iter().map(|host| format!("{scheme}://{host}")).collect();
    Client::connect(endpoints, Some(options)).await.map_err(|error| said(&error))
}

/// An empty one is as none.
fn variable(name: &str) -> Result<Option<String>, String> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name} is no text")),
    }
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
