//! Pure. An index of selectors: finds those that select an object without evaluating each of them.

use std::collections::HashMap;

use crate::objects::kind::Labels;
use mesh::model::name::Name;

/// Values with a selector. Selectors are indexed by their first pair: only those whose first pair the object has are
/// evaluated.
#[derive(Debug)]
pub(super) struct Selection<T> {
    things: Vec<Option<(Labels, T)>>,
    /// Places in `things` that are free.
    free: Vec<usize>,
    by_pair: HashMap<(Name, Name), Vec<usize>>,
}

impl<T> Default for Selection<T> {
    fn default() -> Self {
        Self { things: Vec::new(), free: Vec::new(), by_pair: HashMap::new() }
    }
}

impl<T> Selection<T> {
    /// Adds a thing with a selector that is not empty; one that is empty selects nothing here.
    pub(super) fn add(&mut self, selector: Labels, thing: T) {
        let Some(pair) = selector.iter().next().cloned() else { return };
        let thing = Some((selector, thing));
        let place = match self.free.pop() {
            Some(place) => {
                self.things[place] = thing;
                place
            }
            None => {
                self.things.push(thing);
                self.things.len() - 1
            }
        };
        self.by_pair.entry(pair).or_default().push(place);
    }

    /// Takes things with this selector out again; what is added later may take their places.
    pub(super) fn remove(&mut self, selector: &Labels, is_it: impl Fn(&T) -> bool) {
        let Some(pair) = selector.iter().next() else { return };
        let Some(places) = self.by_pair.get_mut(pair) else { return };
        let (things, free) = (&mut self.things, &mut self.free);
        places.retain(|&place| {
            let gone = things[place].as_ref().is_some_and(|(own, thing)| own == selector && is_it(thing));
            if gone {
                things[place] = None;
                free.push(place);
            }
            !gone
        });
        if places.is_empty() {
            self.by_pair.remove(pair);
        }
    }

    /// Everything that selects these labels, in the order of adding while nothing was removed.
    pub(super) fn select<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a T> {
        let mut found: Vec<usize> = Vec::new();
        if !self.things.is_empty() {
            let candidates = labels.iter().filter_map(|pair| self.by_pair.get(pair)).flatten().copied();
            let selects = |index: &usize| {
                self.things[*index].as_ref().is_some_and(|(selector, _)| labels.are_selected_by(selector))
            };
            found.extend(candidates.filter(selects));
            found.sort_unstable();
        }
        found.into_iter().filter_map(|index| self.things[index].as_ref().map(|(_, thing)| thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn a_thing_is_found_when_all_its_pairs_are_there() {
        let mut selection = Selection::default();
        selection.add(labels(&[("app", "shop"), ("version", "v2")]), "v2");
        selection.add(labels(&[("app", "shop")]), "shop");
        selection.add(labels(&[]), "nobody");
        selection.add(labels(&[("version", "v1")]), "v1");
        let select = |pairs: &[(&str, &str)]| selection.select(&labels(pairs)).copied().collect::<Vec<_>>();
        assert_eq!(select(&[("app", "shop"), ("version", "v1")]), ["shop", "v1"]);
        assert_eq!(select(&[("app", "shop"), ("version", "v2")]), ["v2", "shop"]);
        assert_eq!(select(&[("app", "cart")]), [""; 0]);
        assert_eq!(select(&[]), [""; 0]);
    }

    #[test]
    fn what_is_removed_selects_nothing_and_its_place_is_used_again() {
        let mut selection = Selection::default();
        for thing in 0..3 {
            selection.add(labels(&[("app", "shop")]), thing);
        }
        selection.remove(&labels(&[("app", "shop")]), |thing| *thing == 1);
        selection.remove(&labels(&[("app", "cart")]), |_| true);
        let shop = labels(&[("app", "shop")]);
        assert_eq!(selection.select(&shop).copied().collect::<Vec<_>>(), [0, 2]);
        selection.add(labels(&[("app", "cart")]), 7);
        assert_eq!(selection.things.len(), 3);
        assert_eq!(selection.select(&labels(&[("app", "cart")])).copied().collect::<Vec<_>>(), [7]);
    }
}
