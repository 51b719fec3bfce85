//! What an accepting rule changes on a route.

use std::borrow::Cow;

use super::{Change, Community};
use crate::attr::Attributes;

pub fn apply<'a>(attributes: &'a Attributes, changes: &[Change]) -> Cow<'a, Attributes> {
    let mut out = Cow::Borrowed(attributes);
    for change in changes {
        match change {
            Change::AddCommunity(community) if community.is_on(&out) => {}
            &Change::AddCommunity(Community::Standard(community)) => {
                let out = out.to_mut();
                out.communities = out.communities.iter().copied().chain([community]).collect();
            }
            &Change::AddCommunity(Community::Large(community)) => {
                let out = out.to_mut();
                out.large = out.large.iter().copied().chain([community]).collect();
            }
            Change::Prepend(numbers) => {
                // The first of them ends up in front.
                for &number in numbers.iter().rev() {
                    out.to_mut().as_path = out.as_path.prepended(number);
                }
            }
            &Change::SetLocalPref(local_pref) => {
                if out.local_pref != Some(local_pref) {
                    out.to_mut().local_pref = Some(local_pref);
                }
            }
        }
    }
    out
}
