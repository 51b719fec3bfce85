//! Objects of one kind by their names, in pieces that snapshots share: one that differs in one object costs one piece, to
//! make, to compare and to drop.

use std::{cmp::Ordering, iter::Peekable, slice, sync::Arc};

use crate::Object;

/// Objects in a piece: halved when it would be more.
const PIECE: usize = 64;

type Piece<S> = Arc<Vec<Arc<Object<S>>>>;

/// Sorted, and no piece is empty.
#[derive(Debug)]
pub(crate) struct ByName<S> {
    pieces: Vec<Piece<S>>,
    len: usize,
}

impl<S> Default for ByName<S> {
    fn default() -> ByName<S> {
        ByName { pieces: Vec::new(), len: 0 }
    }
}

/// Shares all pieces.
impl<S> Clone for ByName<S> {
    fn clone(&self) -> ByName<S> {
        ByName { pieces: self.pieces.clone(), len: self.len }
    }
}

impl<S: PartialEq> PartialEq for ByName<S> {
    fn eq(&self, other: &ByName<S>) -> bool {
        changes(self, other).all(|change| matches!(change, (Some(old), Some(new)) if old == new))
    }
}

impl<S> ByName<S> {
    /// Of the last piece that does not begin behind the name; 0 where there is none.
    fn piece_of(&self, name: &str) -> usize {
        let begins_before = |piece: &Piece<S>| piece.first().is_some_and(|first| first.name() <= name);
        self.pieces.partition_point(begins_before).saturating_sub(1)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Object<S>>> {
        let piece = self.pieces.get(self.piece_of(name))?;
        piece.get(place(piece, name).ok()?)
    }

    /// In the place of the one with its name.
    pub(crate) fn insert(&mut self, object: Arc<Object<S>>) {
        let at = self.piece_of(object.name());
        let is_last_piece = at + 1 == self.pieces.len();
        let Some(piece) = self.pieces.get_mut(at) else {
            self.pieces.push(Arc::new(vec![object]));
            self.len = 1;
            return;
        };
        // Behind all, as when a whole snapshot is read: then pieces become full, not half.
        let is_last = is_last_piece && piece.last().is_some_and(|last| last.name() < object.name());
        match place(piece, object.name()) {
            Ok(place) => {
                if let Some(held) = Arc::make_mut(piece).get_mut(place) {
                    *held = object;
                }
                return;
            }
            Err(_) if piece.len() >= PIECE && is_last => self.pieces.insert(at + 1, Arc::new(vec![object])),
            Err(place) => {
                let objects = Arc::make_mut(piece);
                objects.insert(place, object);
                if objects.len() > PIECE {
                    let behind = objects.split_off(PIECE / 2);
                    self.pieces.insert(at + 1, Arc::new(behind));
                }
            }
        }
        self.len += 1;
    }

    /// False if there was none.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let at = self.piece_of(name);
        let Some(piece) = self.pieces.get_mut(at) else { return false };
        let Ok(place) = place(piece, name) else { return false };
        if piece.len() == 1 {
            self.pieces.remove(at);
        } else {
            Arc::make_mut(piece).remove(place);
        }
        self.len -= 1;
        true
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Object<S>>> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

fn place<S>(piece: &[Arc<Object<S>>], name: &str) -> Result<usize, usize> {
    piece.binary_search_by(|object| object.name().cmp(name))
}

/// An object as it was and as it is.
pub(crate) type Change<'a, S> = (Option<&'a Arc<Object<S>>>, Option<&'a Arc<Object<S>>>);

/// What is not the same object in both, by name. Objects that equal each other may be told of, those that are shared are not.
pub(crate) fn changes<'a, S>(
    before: &'a ByName<S>,
    now: &'a ByName<S>,
) -> impl Iterator<Item = Change<'a, S>> + use<'a, S> {
    let (mut before, mut now) = (Walk::new(before), Walk::new(now));
    std::iter::from_fn(move || {
        loop {
            // Pieces that both have are passed over as one.
            if before.at_piece().zip(now.at_piece()).is_some_and(|(old, new)| Arc::ptr_eq(old, new)) {
                before.pass_piece();
                now.pass_piece();
                continue;
            }
            return match (before.peek(), now.peek()) {
                (None, None) => None,
                (Some(_), None) => Some((before.next(), None)),
                (None, Some(_)) => Some((None, now.next())),
                (Some(old), Some(new)) => {
                    if Arc::ptr_eq(old, new) {
                        before.next();
                        now.next();
                        continue;
                    }
                    match old.name().cmp(new.name()) {
                        Ordering::Less => Some((before.next(), None)),
                        Ordering::Equal => Some((before.next(), now.next())),
                        Ordering::Greater => Some((None, now.next())),
                    }
                }
            };
        }
    })
}

/// Goes from object to object, and knows where a piece begins.
struct Walk<'a, S> {
    pieces: Peekable<slice::Iter<'a, Piece<S>>>,
    /// What is left of a piece that was begun.
    rest: slice::Iter<'a, Arc<Object<S>>>,
}

impl<'a, S> Walk<'a, S> {
    fn new(of: &'a ByName<S>) -> Walk<'a, S> {
        Walk { pieces: of.pieces.iter().peekable(), rest: [].iter() }
    }

    /// The piece of which nothing has been said yet.
    fn at_piece(&mut self) -> Option<&'a Piece<S>> {
        if self.rest.as_slice().is_empty() { self.pieces.peek().copied() } else { None }
    }

    fn pass_piece(&mut self) {
        self.pieces.next();
    }

    fn peek(&mut self) -> Option<&'a Arc<Object<S>>> {
        if self.rest.as_slice().is_empty() {
            self.pieces.peek()?.first()
        } else {
            self.rest.as_slice().first()
        }
    }

    fn next(&mut self) -> Option<&'a Arc<Object<S>>> {
        if self.rest.as_slice().is_empty() {
            self.rest = self.pieces.next()?.iter();
        }
        self.rest.next()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::Metadata;

    fn object(name: u32, spec: u8) -> Arc<Object<u8>> {
        let metadata = Metadata { name: format!("n{name:04}"), ..Metadata::default() };
        Arc::new(Object { metadata, spec, document: serde_json::Value::Null, without_effect: Vec::new() })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, u8),
        Remove(u32),
        /// From here on changes are counted.
        Mark,
        /// So many names from here on, each behind the one before.
        Run(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..600u32, 0..3u8).prop_map(|(name, spec)| Step::Insert(name, spec)),
            8 => (0..600u32).prop_map(Step::Remove),
            1 => Just(Step::Mark),
            2 => (0..600u32, 0..200u32).prop_map(|(from, many)| Step::Run(from, many)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_tells_exactly_what_changed(steps in proptest::collection::vec(step(), 0..120)) {
            let mut map = ByName::default();
            let mut model: BTreeMap<String, Arc<Object<u8>>> = BTreeMap::new();
            let mut marked = (map.clone(), model.clone());
            for step in steps {
                match step {
                    Step::Insert(name, spec) => {
                        let object = object(name, spec);
                        map.insert(object.clone());
                        model.insert(object.name().to_owned(), object);
                    }
                    Step::Remove(name) => {
                        let name = format!("n{name:04}");
                        prop_assert_eq!(map.remove(&name), model.remove(&name).is_some());
                    }
                    Step::Mark => marked = (map.clone(), model.clone()),
                    Step::Run(from, many) => for name in from..from + many {
                        let object = object(name, 9);
                        map.insert(object.clone());
                        model.insert(object.name().to_owned(), object);
                    },
                }
                prop_assert!(map.pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert!(map.values().map(|object| object.name()).eq(model.keys()));
            for name in 0..800 {
                let name = format!("n{name:04}");
                let (found, expected) = (map.get(&name), model.get(&name));
                prop_assert_eq!(found.map(Arc::as_ptr), expected.map(Arc::as_ptr));
            }
            let (before, model_before) = marked;
            let told: Vec<_> = changes(&before, &map)
                .map(|(old, new)| {
                    let name = old.or(new).unwrap().name().to_owned();
                    (name, old.map(Arc::as_ptr), new.map(Arc::as_ptr))
                })
                .collect();
            let names: std::collections::BTreeSet<_> = model_before.keys().chain(model.keys()).collect();
            let expected: Vec<_> = names
                .into_iter()
                .map(|name| {
                    (name.clone(), model_before.get(name).map(Arc::as_ptr), model.get(name).map(Arc::as_ptr))
                })
                .filter(|(_, old, new)| old != new)
                .collect();
            prop_assert_eq!(told, expected);
            prop_assert_eq!(before == map, model_before == model);
        }
    }

    #[test]
    fn one_object_more_is_one_piece_more_and_names_in_order_fill_theirs() {
        let mut map = ByName::default();
        (0..5000).for_each(|name| map.insert(object(2 * name, 0)));
        assert_eq!(map.pieces.len(), 5000usize.div_ceil(PIECE));
        let mut other = map.clone();
        other.insert(object(4001, 1));
        let shared = other.pieces.iter().filter(|piece| map.pieces.iter().any(|old| Arc::ptr_eq(old, piece)));
        assert_eq!((shared.count(), changes(&map, &other).count()), (map.pieces.len() - 1, 1));
    }
}
