//! calicoctl's configuration file: which etcd it asks, as whom. What it says of Kubernetes leads nowhere here.

use std::{fmt, fs, path::Path};

use manx_resources::read_document;
use serde_json::Value;

use crate::{
    Datastore,
    etcd::{Access, Etcd, Pem},
};

/// As much as such a file is read of.
const MAX_FILE: u64 = 1 << 20;

/// Why a configuration file of calicoctl leads to no datastore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is neither YAML nor JSON: {0}")]
    Syntax(String),
    #[error(
        "is no CalicoAPIConfig: its kind is {0}; it looks like apiVersion: projectcalico.org/v3, kind: CalicoAPIConfig"
    )]
    Kind(String),
    #[error(
        "says datastoreType: {0}, and manxctl asks no Kubernetes API; name a directory (--datastore dir:PATH) or an etcd"
    )]
    NotEtcd(String),
    #[error("has no spec.etcdEndpoints, such as http://10.0.0.1:2379,http://10.0.0.2:2379")]
    NoEndpoints,
    #[error(
        "spec.etcdEndpoints: \"{0}\" is no http://HOST:PORT or https://HOST:PORT, or not of the same kind as the first"
    )]
    Endpoint(String),
    #[error("spec.{0} is no text")]
    NoText(&'static str),
    #[error("of spec.etcdUsername and spec.etcdPassword only one is there")]
    HalfAUser,
    #[error("of the client's certificate and its key only one is there")]
    HalfACertificate,
}

pub(crate) fn datastore(file: &Path) -> Result<Datastore, Wrong> {
    let unreadable = |error: &dyn fmt::Display| Wrong::Unreadable(error.to_string());
    let length = fs::metadata(file).map_err(|error| unreadable(&error))?.len();
    if length > MAX_FILE {
        return Err(unreadable(&format_args!("it has {length} octets; such a file has some hundreds")));
    }
    let text = fs::read_to_string(file).map_err(|error| unreadable(&error))?;
    read(&text).map(Datastore::Etcd)
}

fn read(text: &str) -> Result<Etcd, Wrong> {
    let document = read_document(text).map_err(Wrong::Syntax)?;
    match document.get("kind") {
        Some(Value::String(kind)) if kind == "CalicoAPIConfig" => {}
        Some(Value::String(kind)) => return Err(Wrong::Kind(kind.clone())),
        _ => return Err(Wrong::Kind("missing".to_owned())),
    }
    // Its fields are calicoctl's; one that is empty is as none.
    let field = |name: &'static str| match document.get("spec").and_then(|spec| spec.get(name)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(Wrong::NoText(name)),
    };
    match field("datastoreType")? {
        None => {}
        Some(etcd) if etcd == "etcdv3" => {}
        Some(other) => return Err(Wrong::NotEtcd(other)),
    }
    let endpoints = field("etcdEndpoints")?.ok_or(Wrong::NoEndpoints)?;
    let is_tls = endpoints.starts_with("https:");
    let scheme = if is_tls { "https:" } else { "http:" };
    let hosts = endpoints.split(',').map(|endpoint| {
        let host = endpoint.trim().strip_prefix(scheme).and_then(|rest| rest.strip_prefix("//"));
        host.map(|host| host.trim_end_matches('/')).ok_or_else(|| Wrong::Endpoint(endpoint.to_owned()))
    });
    let hosts = hosts.collect::<Result<Vec<_>, _>>()?.join(",");
    let etcd = Etcd::parse(&endpoints, &format!("//{hosts}"), is_tls);
    let etcd = etcd.map_err(|_| Wrong::Endpoint(endpoints.clone()))?;
    // What stands in the file itself comes before a file that it names, as in calicoctl.
    let pem = |text: &'static str, file: &'static str| -> Result<Option<Pem>, Wrong> {
        Ok(match (field(text)?, field(file)?) {
            (Some(text), _) => Some(Pem::Text(text)),
            (None, path) => path.map(|path| Pem::File { name: file, path }),
        })
    };
    let user = match (field("etcdUsername")?, field("etcdPassword")?) {
        (Some(name), Some(password)) => Some((name, password)),
        (None, None) => None,
        _ => return Err(Wrong::HalfAUser),
    };
    let identity = match (pem("etcdCert", "etcdCertFile")?, pem("etcdKey", "etcdKeyFile")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(Wrong::HalfACertificate),
    };
    Ok(etcd.with_access(Access { user, identity, ca: pem("etcdCACert", "etcdCACertFile")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(spec: &str) -> String {
        format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n{spec}")
    }

    #[test]
    fn calicoctls_file_leads_to_its_etcd() {
        let plain =
            config("  datastoreType: etcdv3\n  etcdEndpoints: http://10.0.0.1:2379,http://[fd00::1]:4\n");
        assert_eq!(read(&plain).unwrap().to_string(), "etcd://10.0.0.1:2379,[fd00::1]:4");
        let tls =
            config("  etcdEndpoints: 'https://etcd.lab:2379/'\n  etcdUsername: a\n  etcdPassword: secret\n");
        let tls = read(&tls).unwrap();
        assert_eq!(tls.to_string(), "etcds://etcd.lab:2379");
        assert!(!format!("{tls:?}").contains("secret"), "{tls:?}");
    }

    #[test]
    fn what_leads_nowhere_is_told_with_its_field() {
        for (spec, expected) in [
            ("  datastoreType: kubernetes\n", Wrong::NotEtcd("kubernetes".into())),
            ("  datastoreType: etcdv3\n", Wrong::NoEndpoints),
            ("  etcdEndpoints: 10.0.0.1:2379\n", Wrong::Endpoint("10.0.0.1:2379".into())),
            ("  etcdEndpoints: http://a:1,https://b:1\n", Wrong::Endpoint("https://b:1".into())),
            ("  etcdEndpoints: http://a:x\n", Wrong::Endpoint("http://a:x".into())),
            ("  etcdEndpoints: 5\n", Wrong::NoText("etcdEndpoints")),
            ("  etcdEndpoints: http://a\n  etcdUsername: a\n", Wrong::HalfAUser),
            ("  etcdEndpoints: https://a\n  etcdCertFile: /a\n", Wrong::HalfACertificate),
        ] {
            assert_eq!(read(&config(spec)).unwrap_err(), expected, "{spec}");
        }
        assert_eq!(read("kind: Node\n").unwrap_err(), Wrong::Kind("Node".into()));
        assert!(matches!(read("a: [\n").unwrap_err(), Wrong::Syntax(_)));
        assert!(matches!(datastore(Path::new("/nowhere")).unwrap_err(), Wrong::Unreadable(_)));
    }
}
