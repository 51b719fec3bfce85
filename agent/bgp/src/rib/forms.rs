//! Routes sorted by the form in which they leave, so that those of one form share their UPDATEs.

use std::{collections::HashMap, ptr, sync::Arc};

use super::table::{PeerSlot, RouteId};
use crate::{attr::Attributes, policy::Change};

/// All on which the attributes depend with which a route leaves.
#[derive(Clone, Copy)]
pub(super) struct Form<'a> {
    pub attributes: &'a Arc<Attributes>,
    /// What a rule changes; a slice of that rule, so that two of one place are the same.
    pub changes: &'a [Change],
    pub source: PeerSlot,
    pub displaced: bool,
}

/// Equal for forms that are the same.
type FormIdentity = (*const Attributes, *const Change, PeerSlot, bool);

impl Form<'_> {
    fn identity(&self) -> FormIdentity {
        // Empty slices may lie anywhere.
        let changes = if self.changes.is_empty() { ptr::null() } else { self.changes.as_ptr() };
        (Arc::as_ptr(self.attributes), changes, self.source, self.displaced)
    }
}

/// Routes sorted by what goes into one UPDATE.
pub(super) struct Sorted<'a, P> {
    pub withdrawn: Vec<P>,
    forms: Vec<Form<'a>>,
    index: HashMap<FormIdentity, u32>,
    announced: Vec<(u32, RouteId, P)>,
}

pub(super) struct Bucket<'a, P> {
    pub form: Form<'a>,
    pub ids: Vec<RouteId>,
    pub prefixes: Vec<P>,
}

impl<'a, P> Sorted<'a, P> {
    pub fn withdrawing(withdrawn: Vec<P>) -> Self {
        Sorted { withdrawn, forms: Vec::new(), index: HashMap::new(), announced: Vec::new() }
    }

    pub fn announce(&mut self, id: RouteId, prefix: P, form: Form<'a>) {
        let identity = form.identity();
        let last = self.announced.last().map(|&(bucket, ..)| bucket);
        #[expect(clippy::indexing_slicing, reason = "numbers of buckets are indices of `forms`")]
        let same = last.filter(|&bucket| self.forms[bucket as usize].identity() == identity);
        let bucket = same.unwrap_or_else(|| {
            *self.index.entry(identity).or_insert_with(|| {
                self.forms.push(form);
                (self.forms.len() - 1) as u32
            })
        });
        self.announced.push((bucket, id, prefix));
    }

    /// In the order in which the sets first appeared; routes of a set in their order.
    pub fn buckets(mut self) -> impl Iterator<Item = Bucket<'a, P>> {
        self.announced.sort_by_key(|&(bucket, ..)| bucket);
        let mut rest = self.announced.into_iter().peekable();
        std::iter::from_fn(move || {
            let (bucket, id, prefix) = rest.next()?;
            #[expect(clippy::indexing_slicing, reason = "numbers of buckets are indices of `forms`")]
            let form = self.forms[bucket as usize];
            let (mut ids, mut prefixes) = (vec![id], vec![prefix]);
            while let Some((_, id, prefix)) = rest.next_if(|&(next, ..)| next == bucket) {
                ids.push(id);
                prefixes.push(prefix);
            }
            Some(Bucket { form, ids, prefixes })
        })
    }
}
