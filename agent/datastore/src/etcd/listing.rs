//! All that is there, at one revision.

use etcd_client::{Client, Error, GetOptions};

use super::access::said;

/// Keys in one answer: a message may have 4 MiB, and a large Node has some kilobytes. Where objects are larger (blocks with
/// all addresses given out), fewer.
const PAGE: i64 = 500;

/// gRPC's status for, among others, a message that is larger than may be.
const OUT_OF_RANGE: i32 = 11;

/// What stands under the prefixes, and when.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub objects: Vec<Object>,
    pub revision: i64,
}

#[derive(Debug)]
pub(super) struct Object {
    pub key: String,
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub changed: i64,
}

pub(super) async fn list(client: &mut Client, prefixes: Vec<String>) -> Result<Listing, String> {
    let mut listing = Listing::default();
    for prefix in prefixes {
        let end = end(&prefix);
        let mut from = prefix.into_bytes();
        let mut page = PAGE;
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(page);
            if listing.revision != 0 {
                options = options.with_revision(listing.revision);
            }
            let mut answer = match client.get(from.as_slice(), Some(options)).await {
                Ok(answer) => answer,
                Err(error) if is_too_large(&error) && page > 1 => {
                    page = (page / 8).max(1);
                    continue;
                }
                Err(error) => return Err(said(&error)),
            };
            if listing.revision == 0 {
                listing.revision = answer.header().map_or(0, |header| header.revision());
            }
            let more = answer.more();
            let found = answer.take_kvs();
            let Some(last) = found.last() else { break };
            // The next key that there can be.
            from = [last.key(), &[0]].concat();
            listing.objects.extend(found.into_iter().filter_map(|found| {
                let changed = found.mod_revision();
                let (key, value) = found.into_key_value();
                // Calico's keys are text; another's are not ours.
                String::from_utf8(key).ok().map(|key| Object { key, value, changed })
            }));
            if !more {
                break;
            }
        }
    }
    Ok(listing)
}

/// The answer is longer than a message may be.
pub(super) fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if i32::from(status.code()) == OUT_OF_RANGE)
}

/// The first key behind all that begin so: a prefix ends in a slash, and '0' is the character behind that.
fn end(prefix: &str) -> Vec<u8> {
    format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix)).into_bytes()
}
