//! etcd v3 in Calico's key layout: what stands there at one revision, then every change. Whoever else writes there is
//! not ours to judge: an object with an error is kept as it was when it was last good, and all others go on.

mod access;
mod follow;
mod listing;
mod store;
mod write;

use std::{
    fmt,
    panic::resume_unwind,
    thread,
    time::{Duration, SystemTime},
};

use etcd_client::Client;
use manx_resources::{Kind, Problem, Severity, stored_prefixes, stored_prefixes_with};
use tokio::time::timeout;

pub(crate) use follow::watch;

use crate::{OpenError, Reading, Refused, Update, Write, WriteError, Written};
pub(crate) use access::{Access, Pem};
use store::Store;

/// Ports of clients, as IANA has it.
const PORT: u16 = 2379;

/// Where an etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// HOST:PORT each.
    endpoints: Vec<String>,
    tls: bool,
    /// None: as the environment says.
    access: Option<Access>,
}

impl Etcd {
    /// Reads what stands behind `etcd:` or `etcds:`, such as `//10.0.0.1:2379,10.0.0.2`.
    pub(crate) fn parse(url: &str, rest: &str, tls: bool) -> Result<Etcd, OpenError> {
        let wrong = || OpenError::Endpoints(url.to_owned());
        let hosts = rest.strip_prefix("//").ok_or_else(wrong)?;
        let endpoint = |host: &str| {
            let is_bad = |character: char| character.is_whitespace() || "/@?#".contains(character);
            if host.is_empty() || host.contains(is_bad) {
                return Err(wrong());
            }
            // Of an IPv6 address colons stand in brackets.
            let after_address = host.rsplit(']').next().unwrap_or(host);
            match after_address.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(host.to_owned()),
                Some(_) => Err(wrong()),
                None => Ok(format!("{host}:{PORT}")),
            }
        };
        Ok(Etcd { endpoints: hosts.split(',').map(endpoint).collect::<Result<_, _>>()?, tls, access: None })
    }

    pub(crate) fn with_access(self, access: Access) -> Etcd {
        Etcd { access: Some(access), ..self }
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "etcds" } else { "etcd" }
    }

    /// Everything once. Blocks, for some seconds at most.
    pub(crate) fn read(&self) -> Update {
        let listing =
            self.ask(|mut client| async move { listing::list(&mut client, stored_prefixes()).await });
        match listing.and_then(|listing| listing) {
            Ok(listing) => Store::new(listing).update(),
            Err(why) => Update { problems: [self.away(&why)].into(), ..Update::default() },
        }
    }

    /// As [`Etcd::read`], with the revision in which each object was changed last.
    pub(crate) fn read_versions(&self, kinds: &[Kind]) -> Reading {
        let listing = self
            .ask(|mut client| async move { listing::list(&mut client, stored_prefixes_with(kinds)).await });
        match listing.and_then(|listing| listing) {
            Ok(listing) => {
                let version = Some(listing.revision.to_string());
                let changed: Vec<_> =
                    listing.objects.iter().map(|object| (object.key.clone(), object.changed)).collect();
                let store = Store::new(listing);
                let versions = changed
                    .into_iter()
                    .filter_map(|(key, changed)| Some((store.key_of(&key)?.clone(), changed.to_string())))
                    .collect();
                Reading { update: store.update(), versions, version }
            }
            Err(why) => {
                let update = Update { problems: [self.away(&why)].into(), ..Update::default() };
                Reading { update, ..Reading::default() }
            }
        }
    }

    /// All that is given, or nothing. Blocks, for some seconds at most.
    pub(crate) fn write(&self, writes: &[Write]) -> Result<Vec<Written>, Refused> {
        let now = SystemTime::now();
        // Each is read and written; thousands take seconds.
        let patience = FIRST_ANSWER + PER_OBJECT * u32::try_from(writes.len()).unwrap_or(u32::MAX);
        let job = |mut client| async move { write::write(self, &mut client, writes, now).await };
        self.ask_for(patience, job).map_err(|why| vec![WriteError::Store { store: self.to_string(), why }])?
    }

    /// One conversation, on a thread of its own: the caller's may belong to a runtime.
    fn ask<T: Send, F: Future<Output = T>>(
        &self,
        question: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, String> {
        self.ask_for(FIRST_ANSWER, question)
    }

    fn ask_for<T: Send, F: Future<Output = T>>(
        &self,
        patience: Duration,
        question: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, String> {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let all = async { Ok(question(access::connect(self).await?).await) };
                timeout(patience, all).await.map_err(|_| NO_ANSWER.to_owned())?
            })
        };
        thread::scope(|scope| scope.spawn(ask).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// What is wrong while it cannot be asked.
    fn away(&self, why: &str) -> Problem {
        let (severity, file) = (Severity::Error, self.to_string());
        Problem { severity, file, place: None, subject: None, field: None, message: why.to_owned() }
    }
}

/// How long the first answer may take.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// And how much longer for each object that is written.
const PER_OBJECT: Duration = Duration::from_millis(5);
const NO_ANSWER: &str = "does not answer; see whether it runs and has a leader";

/// The URL that opens it.
impl fmt::Display for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.endpoints.join(","))
    }
}
