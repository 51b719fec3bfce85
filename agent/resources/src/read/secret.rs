//! Kubernetes' Secret. No message about one shows a value, not even a wrong one.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    fields::{Fields, Form},
    spec::{Hidden, Secret},
};

pub(super) fn read(document: &mut Fields<'_, '_>) -> Option<Secret> {
    let mut data = BTreeMap::new();
    for (key, text) in document.hidden("data") {
        // As kubectl and others fold it.
        let folded: String = text.split_whitespace().collect();
        match STANDARD.decode(folded) {
            Ok(value) => drop(data.insert(key, Hidden(value))),
            Err(_) => document
                .refuse("data", format!("the value of {key} is not base64; stringData takes plain text")),
        }
    }
    for (key, text) in document.hidden("stringData") {
        data.insert(key, Hidden(text.as_bytes().to_vec()));
    }
    document.accept(&[("type", Form::Text), ("immutable", Form::Bool)]);
    Some(Secret { data })
}
