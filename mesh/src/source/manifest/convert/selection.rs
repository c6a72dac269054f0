//! Pure. Which of many selectors select an object, without asking each of them.

use std::collections::HashMap;

use crate::model::name::Name;
use crate::source::manifest::object::Labels;

/// Things with a selector. Every selector is found by its first pair: an object is only asked about selectors of which
/// it has that pair.
#[derive(Debug)]
pub(super) struct Selection<T> {
    things: Vec<(Labels, T)>,
    by_pair: HashMap<(Name, Name), Vec<usize>>,
}

impl<T> Default for Selection<T> {
    fn default() -> Self {
        Self { things: Vec::new(), by_pair: HashMap::new() }
    }
}

impl<T> Selection<T> {
    /// Adds a thing with a selector that is not empty; one that is empty selects nothing here.
    pub(super) fn add(&mut self, selector: Labels, thing: T) {
        let Some(pair) = selector.iter().next().cloned() else { return };
        self.by_pair.entry(pair).or_default().push(self.things.len());
        self.things.push((selector, thing));
    }

    /// Everything that selects these labels, in the order of adding.
    pub(super) fn select<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a T> {
        let mut found: Vec<usize> = Vec::new();
        if !self.things.is_empty() {
            let candidates = labels.iter().filter_map(|pair| self.by_pair.get(pair)).flatten().copied();
            found.extend(candidates.filter(|&index| labels.are_selected_by(&self.things[index].0)));
            found.sort_unstable();
        }
        found.into_iter().map(|index| &self.things[index].1)
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
}
