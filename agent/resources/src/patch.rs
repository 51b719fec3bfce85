//! Patches of documents: strategic merge as Kubernetes has it for kinds without merge keys (all of Calico's: a list takes
//! the place of a list), merge (RFC 7396) and JSON (RFC 6902). Pure: a document and a patch in, a document out.

use serde_json::{Map, Value};

/// The most levels of a patch or a document; no recursion goes deeper. What JSON text can hold is less.
const MAX_DEPTH: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Strategic,
    /// RFC 7396.
    Merge,
    /// RFC 6902.
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    #[error("the patch is neither JSON nor YAML: {0}")]
    Syntax(String),
    #[error(
        "a {kind} patch is a mapping of the fields to change, such as {{\"spec\": {{\"asNumber\": 64512}}}}"
    )]
    NoMapping { kind: &'static str },
    #[error(
        "a json patch is a list of operations, such as [{{\"op\": \"replace\", \"path\": \"/spec/asNumber\", \
         \"value\": 64512}}]; a mapping of fields is of type merge or strategic"
    )]
    NoList,
    #[error("operation {number}: {why}")]
    Operation { number: usize, why: String },
    #[error("{path}: {why}")]
    Directive { path: String, why: String },
    #[error("the patch is nested too deeply")]
    TooDeep,
}

/// A patch from its text, JSON or YAML.
pub fn parse_patch(text: &str) -> Result<Value, PatchError> {
    read_document(text).map_err(PatchError::Syntax)
}

/// The one document of a text, JSON or YAML; or what is wrong with it.
pub fn read_document(text: &str) -> Result<Value, String> {
    let (documents, fault) = crate::tree::parse(text);
    let fault = fault.or_else(|| documents.iter().find_map(|document| document.faults.first().cloned()));
    match (fault, documents.as_slice()) {
        (Some(fault), _) => Err(format!("at {}:{}, {}", fault.place.0, fault.place.1, fault.message)),
        (None, [document]) => Ok(document.root.to_json()),
        (None, []) => Err("it is empty".to_owned()),
        (None, _) => Err("it holds several documents".to_owned()),
    }
}

/// The document as the patch makes it.
pub fn patch(document: &Value, kind: PatchKind, patch: &Value) -> Result<Value, PatchError> {
    let mut document = document.clone();
    match (kind, patch) {
        (PatchKind::Json, Value::Array(operations)) => {
            for (operation, number) in operations.iter().zip(1..) {
                operate(&mut document, operation).map_err(|why| PatchError::Operation { number, why })?;
                if depth(&document, 0) > MAX_DEPTH {
                    return Err(PatchError::TooDeep);
                }
            }
        }
        (PatchKind::Json, _) => return Err(PatchError::NoList),
        (_, patch) if depth(patch, 0) > MAX_DEPTH => return Err(PatchError::TooDeep),
        (PatchKind::Merge, Value::Object(_)) => merge(&mut document, patch),
        (PatchKind::Merge, _) => return Err(PatchError::NoMapping { kind: "merge" }),
        (PatchKind::Strategic, Value::Object(patch)) => strategic(&mut document, patch, "")?,
        (PatchKind::Strategic, _) => return Err(PatchError::NoMapping { kind: "strategic" }),
    }
    Ok(document)
}

/// Levels, as far as they matter.
fn depth(value: &Value, above: usize) -> usize {
    if above > MAX_DEPTH {
        return above;
    }
    let inner = |value| depth(value, above + 1);
    match value {
        Value::Object(map) => map.values().map(inner).max().unwrap_or(above + 1),
        Value::Array(items) => items.iter().map(inner).max().unwrap_or(above + 1),
        _ => above + 1,
    }
}

/// RFC 7396 §2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let map = object(target);
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The value as a mapping; what was none is an empty one then.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a mapping above"),
    }
}

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Lists that merge, and by which key of their members: those of Kubernetes' metadata; Calico's own have none.
fn merges_by(path: &str) -> Option<Option<&'static str>> {
    match path {
        "metadata.finalizers" => Some(None),
        "metadata.ownerReferences" => Some(Some("uid")),
        _ => None,
    }
}

fn strategic(target: &mut Value, patch: &Map<String, Value>, at: &str) -> Result<(), PatchError> {
    let wrong = |path: &str, why: &str| PatchError::Directive { path: path.to_owned(), why: why.to_owned() };
    let place = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    let fields = || patch.iter().filter(|(key, _)| !key.starts_with('$'));
    match patch.get(PATCH).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *target = Value::Object(fields().map(|(key, value)| (key.clone(), value.clone())).collect());
            return Ok(());
        }
        Some(Some("delete")) => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(_) => return Err(wrong(&place(PATCH), "is none of merge, replace and delete")),
    }
    let map = object(target);
    for (key, value) in patch.iter().filter(|(key, _)| key.starts_with('$')) {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or_else(|| wrong(&place(key), "is no list"))?;
            if let Some(Value::Array(items)) = map.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        } else if key != PATCH && key != RETAIN && !key.starts_with(ORDER) {
            return Err(wrong(
                &place(key),
                "is no directive; there are $patch, $retainKeys, $deleteFromPrimitiveList/… and $setElementOrder/…",
            ));
        }
    }
    for (key, value) in fields() {
        let path = place(key);
        match value {
            Value::Null => drop(map.remove(key)),
            Value::Object(inner) if inner.get(PATCH).and_then(Value::as_str) == Some("delete") => {
                map.remove(key);
            }
            Value::Object(inner) => {
                strategic(map.entry(key.clone()).or_insert(Value::Null), inner, &path)?;
            }
            Value::Array(new) => match (merges_by(&path), map.get_mut(key)) {
                (Some(by), Some(Value::Array(old))) => merge_list(old, new, by, &path)?,
                _ => drop(map.insert(key.clone(), value.clone())),
            },
            value => drop(map.insert(key.clone(), value.clone())),
        }
    }
    if let Some(retained) = patch.get(RETAIN) {
        let retained = retained.as_array().ok_or_else(|| wrong(&place(RETAIN), "is no list"))?;
        map.retain(|key, _| retained.iter().any(|name| name == key));
    }
    Ok(())
}

fn merge_list(old: &mut Vec<Value>, new: &[Value], by: Option<&str>, at: &str) -> Result<(), PatchError> {
    for item in new {
        let id = |value: &Value| by.map_or_else(|| Some(value.clone()), |by| value.get(by).cloned());
        let Some(wanted) = id(item) else {
            let why = format!("has a member without {}", by.unwrap_or_default());
            return Err(PatchError::Directive { path: at.to_owned(), why });
        };
        let found = old.iter().position(|value| id(value).as_ref() == Some(&wanted));
        let deletes = item.get(PATCH).and_then(Value::as_str) == Some("delete");
        match (found.and_then(|found| old.get_mut(found)), item) {
            (_, _) if deletes => old.retain(|value| id(value).as_ref() != Some(&wanted)),
            (Some(before), Value::Object(item)) => strategic(before, item, at)?,
            (Some(_), _) => {}
            (None, item) => old.push(item.clone()),
        }
    }
    Ok(())
}

/// One operation of RFC 6902 §4.
fn operate(document: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |name: &str| {
        operation.get(name).and_then(Value::as_str).ok_or_else(|| format!("has no \"{name}\" that is text"))
    };
    let value = || operation.get("value").cloned().ok_or_else(|| "has no \"value\"".to_owned());
    let path = || pointer(text("path")?);
    match text("op")? {
        "add" => add(document, &path()?, value()?),
        "remove" => take(document, &path()?).map(drop),
        "replace" => {
            let (path, value) = (path()?, value()?);
            *find(document, &path)? = value;
            Ok(())
        }
        "move" => {
            let (from, to) = (pointer(text("from")?)?, path()?);
            if to.len() > from.len() && to.starts_with(&from) {
                return Err(format!("cannot move {} into itself", shown(&from)));
            }
            let value = take(document, &from)?;
            add(document, &to, value)
        }
        "copy" => {
            let value = find(document, &pointer(text("from")?)?)?.clone();
            add(document, &path()?, value)
        }
        "test" => {
            let (path, wanted) = (path()?, value()?);
            let found = find(document, &path)?;
            if *found == wanted {
                return Ok(());
            }
            Err(format!("{} is {found} and not {wanted}; nothing was changed", shown(&path)))
        }
        other => Err(format!("\"{other}\" is none of add, remove, replace, move, copy and test")),
    }
}

/// RFC 6901 §3 and §4.
fn pointer(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or_else(|| format!("the path \"{text}\" does not begin with /"))?;
    Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

fn shown(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

/// A member of a list: no leading zeros (RFC 6901 §4).
fn index(part: &str, len: usize) -> Option<usize> {
    let number: usize = part.parse().ok().filter(|number: &usize| number.to_string() == part)?;
    (number < len).then_some(number)
}

fn find<'v>(document: &'v mut Value, path: &[String]) -> Result<&'v mut Value, String> {
    let mut found = document;
    for (part, depth) in path.iter().zip(1..) {
        let next = match found {
            Value::Object(map) => map.get_mut(part),
            Value::Array(items) => index(part, items.len()).and_then(|index| items.get_mut(index)),
            _ => None,
        };
        found = next.ok_or_else(|| format!("there is no {}", shown(path.get(..depth).unwrap_or(path))))?;
    }
    Ok(found)
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    let Some((last, parent)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    match find(document, parent)? {
        Value::Object(map) => drop(map.insert(last.clone(), value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(last, items.len() + 1).ok_or_else(|| format!("there is no {}", shown(path)))?;
            items.insert(at, value);
        }
        _ => return Err(format!("{} is neither a mapping nor a list", shown(parent))),
    }
    Ok(())
}

fn take(document: &mut Value, path: &[String]) -> Result<Value, String> {
    let missing = || format!("there is no {}", shown(path));
    let Some((last, parent)) = path.split_last() else {
        return Err("the whole document cannot be removed by a patch".to_owned());
    };
    match find(document, parent)? {
        Value::Object(map) => map.remove(last).ok_or_else(missing),
        Value::Array(items) => index(last, items.len()).map(|at| items.remove(at)).ok_or_else(missing),
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(kind: PatchKind, document: Value, with: Value) -> Value {
        patch(&document, kind, &with).unwrap()
    }

    #[test]
    fn a_merge_patch_does_what_rfc_7396_shows() {
        for (before, with, after) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(patched(PatchKind::Merge, before.clone(), with.clone()), after, "{before} {with}");
        }
    }

    #[test]
    fn a_list_in_a_strategic_patch_replaces_the_list() {
        let peer =
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"asNumber": 1, "filters": ["x", "y"]}});
        let with = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"asNumber": null, "filters": ["z"]}});
        let after = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"filters": ["z"]}});
        assert_eq!(patched(PatchKind::Strategic, peer, with), after);
    }

    #[test]
    fn a_strategic_patchs_directives_are_kept_or_refused_and_never_written() {
        let before = json!({"spec": {"a": 1, "b": 2, "c": {"d": 3}}, "metadata": {"finalizers": ["x", "y"]}});
        for (with, after) in [
            (json!({"spec": {"$patch": "replace", "a": 9}}), json!({"a": 9})),
            (json!({"spec": {"c": {"$patch": "delete"}}}), json!({"a": 1, "b": 2})),
            (json!({"spec": {"$patch": "merge", "b": 7}}), json!({"a": 1, "b": 7, "c": {"d": 3}})),
            (json!({"spec": {"$retainKeys": ["a", "e"], "e": 5}}), json!({"a": 1, "e": 5})),
        ] {
            assert_eq!(patched(PatchKind::Strategic, before.clone(), with)["spec"], after);
        }
        let with =
            json!({"metadata": {"finalizers": ["z", "x"], "$deleteFromPrimitiveList/finalizers": ["y"]}});
        assert_eq!(
            patched(PatchKind::Strategic, before.clone(), with)["metadata"]["finalizers"],
            json!(["x", "z"])
        );
        let said = patch(&before, PatchKind::Strategic, &json!({"spec": {"$patch": "rm"}})).unwrap_err();
        assert_eq!(said.to_string(), "spec.$patch: is none of merge, replace and delete");
        assert!(patch(&before, PatchKind::Strategic, &json!({"$ptch": 1})).is_err());
    }

    #[test]
    fn a_json_patch_does_what_rfc_6902_shows() {
        for (before, with, after) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                json!({"a": [1, 2, 3]}),
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]})),
            (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/b"}]), json!({"a": 1})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": null}]), json!({"a": null})),
            (
                json!({"a": {"b": 1}, "c": {}}),
                json!([{"op": "move", "from": "/a/b", "path": "/c/d"}]),
                json!({"a": {}, "c": {"d": 1}}),
            ),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1})),
            (
                json!({"a/b": {"m~n": 1}}),
                json!([{"op": "test", "path": "/a~1b/m~0n", "value": 1}]),
                json!({"a/b": {"m~n": 1}}),
            ),
        ] {
            assert_eq!(patched(PatchKind::Json, before.clone(), with.clone()), after, "{with}");
        }
    }

    #[test]
    fn what_a_json_patch_cannot_do_is_told_with_the_operation() {
        let said = |with: Value| patch(&json!({"a": [1]}), PatchKind::Json, &with).unwrap_err().to_string();
        assert_eq!(said(json!([{"op": "remove", "path": "/b"}])), "operation 1: there is no /b");
        assert_eq!(
            said(
                json!([{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/a/2", "value": 1}])
            ),
            "operation 2: there is no /a/2"
        );
        assert_eq!(
            said(json!([{"op": "test", "path": "/a/0", "value": 2}])),
            "operation 1: /a/0 is 1 and not 2; nothing was changed"
        );
        assert!(said(json!([{"op": "move", "from": "/a", "path": "/a/0"}])).contains("into itself"));
        assert!(said(json!([{"op": "replace", "path": "/a/00", "value": 1}])).contains("no /a/00"));
        assert!(said(json!({"a": 1})).starts_with("a json patch is a list of operations, such as [{\"op\""));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<u8>().prop_map(Value::from),
            "[a-c$]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(r"[a-c]|\$patch|\$retainKeys|metadata|finalizers", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_patch_panics_and_a_merge_done_twice_is_done_once(before in value(), with in value(), op in "add|remove|replace|move|copy|test", from in "(/[a-c0-2-]){0,3}", to in "(/[a-c0-2-]){0,3}") {
            let _strategic = patch(&before, PatchKind::Strategic, &with);
            let operation = json!([{"op": op, "from": from, "path": to, "value": with.clone()}]);
            let _json = patch(&before, PatchKind::Json, &operation);
            if let Ok(once) = patch(&before, PatchKind::Merge, &with) {
                prop_assert_eq!(patch(&once, PatchKind::Merge, &with).unwrap(), once);
            }
        }
    }
}
