//! Routes that change hands: another program's become ours, or ours another's. Each is replaced by itself with the other
//! protocol number, in one message, so that no packet finds none.

use std::io;

use manx_net::Prefix;

use super::{
    audit::dump_own,
    message::{Head, Mode, write},
    spec::Spec,
};
use crate::{
    kernel::{KernelRoute, RouteKey},
    netlink::Requests,
};

/// What became of the routes of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relabelled {
    pub taken: usize,
    /// Those that were to be taken and could not be, each with the reason.
    pub refused: Vec<(Prefix, String)>,
    /// Those that were not to be taken.
    pub left: Vec<Prefix>,
}

pub(crate) fn relabel(
    requests: &mut Requests,
    (from, to): (u8, u8),
    wanted: impl Fn(&RouteKey) -> bool,
) -> io::Result<Relabelled> {
    let mut done = Relabelled::default();
    let mut changes: Vec<(RouteKey, Spec, bool)> = Vec::new();
    for route in dump_own(requests, from)? {
        let KernelRoute { key, legs, special, .. } = &route;
        if !wanted(key) {
            done.left.push(key.prefix);
            continue;
        }
        match Spec::found(&route).filter(|_| !special) {
            Some(spec) => changes.push((*key, spec, legs.iter().any(|leg| leg.onlink))),
            None => done.refused.push((
                key.prefix,
                "it has what only the kernel's own routes have: a tunnel, an MTU of its own, or no gateway"
                    .to_owned(),
            )),
        }
    }
    let refused = requests.submit(changes.len(), |packet, place, sequence, answer| {
        if let Some((key, spec, onlink)) = changes.get(place) {
            write(packet, Head { sequence, answer }, (key, to), spec, Mode::Replace, *onlink);
        }
    })?;
    done.taken = changes.len() - refused.len();
    let named = refused.into_iter().filter_map(|(place, refusal)| Some((changes.get(place)?, refusal)));
    done.refused.extend(named.map(|((key, ..), refusal)| (key.prefix, refusal.text)));
    done.left.sort_unstable();
    done.left.dedup();
    Ok(done)
}
