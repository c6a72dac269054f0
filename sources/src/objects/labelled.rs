//! Pure. An index of pods by labels: finds the pods that a selector selects without visiting every pod.

use std::collections::HashMap;

use smallvec::SmallVec;

use mesh::model::name::{Name, Namespace};

use super::kind::{Item, Labels, Pod};

/// A set of pods.
type Pods = SmallVec<[Item<Pod>; 1]>;

/// Pods by their labels. Pods of one workload have equal labels, so there are far fewer sets of labels than pods.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    pods: HashMap<(Namespace, Labels), Pods>,
    /// The sets of labels of a namespace that have a pair.
    sets: HashMap<(Namespace, Name, Name), SmallVec<[Labels; 1]>>,
}

impl Labelled {
    pub(super) fn insert(&mut self, pod: &Item<Pod>) {
        let (namespace, labels) = (&pod.meta.namespace, &pod.meta.labels);
        let pods = self.pods.entry((namespace.clone(), labels.clone())).or_default();
        pods.push(pod.clone());
        if pods.len() == 1 {
            for (key, value) in labels.iter() {
                let sets = self.sets.entry((namespace.clone(), key.clone(), value.clone())).or_default();
                sets.push(labels.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, pod: &Item<Pod>) {
        let at = (pod.meta.namespace.clone(), pod.meta.labels.clone());
        let Some(pods) = self.pods.get_mut(&at) else { return };
        pods.retain(|other| !other.is(pod));
        if !pods.is_empty() {
            return;
        }
        self.pods.remove(&at);
        let (namespace, labels) = at;
        for (key, value) in labels.iter() {
            let pair = (namespace.clone(), key.clone(), value.clone());
            if let Some(sets) = self.sets.get_mut(&pair) {
                sets.retain(|set| *set != labels);
                if sets.is_empty() {
                    self.sets.remove(&pair);
                }
            }
        }
    }

    /// The pods of a namespace that have every pair of a selector; none for an empty one.
    pub(super) fn selected<'a>(
        &'a self,
        namespace: &'a Namespace,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Item<Pod>> {
        let of_pair = |(key, value): &(Name, Name)| {
            self.sets.get(&(namespace.clone(), key.clone(), value.clone())).map_or(&[][..], SmallVec::as_slice)
        };
        let fewest = selector.iter().map(of_pair).min_by_key(|sets| sets.len()).unwrap_or_default();
        let selected = fewest.iter().filter(|labels| labels.are_selected_by(selector));
        selected.filter_map(|labels| self.pods.get(&(namespace.clone(), labels.clone()))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::kind::Body;
    use crate::objects::parse::parse;

    fn pod(name: &str, namespace: &str, labels: &str) -> Item<Pod> {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n"
        );
        let parsed = parse(&std::path::Path::new("a.yaml").into(), &text, &mut Default::default());
        let object = parsed.objects.into_iter().next().unwrap();
        let Body::Pod(pod) = &object.body else { panic!("{object:?}") };
        object.item(pod)
    }

    #[test]
    fn a_selector_finds_the_pods_that_have_all_its_pairs_until_they_are_gone() {
        let pods = [
            pod("a", "x", "app: shop, version: v1"),
            pod("b", "x", "app: shop, version: v2"),
            pod("c", "x", "app: shop, version: v1"),
            pod("d", "y", "app: shop, version: v1"),
            pod("e", "x", ""),
        ];
        let mut labelled = Labelled::default();
        pods.iter().for_each(|pod| labelled.insert(pod));
        let select = |labelled: &Labelled, pairs: &[(&str, &str)]| {
            let selector: Labels = pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect();
            let namespace = "x".into();
            let mut names: Vec<String> =
                labelled.selected(&namespace, &selector).map(|pod| pod.meta.name.to_string()).collect();
            names.sort();
            names.concat()
        };
        assert_eq!(select(&labelled, &[("app", "shop")]), "abc");
        assert_eq!(select(&labelled, &[("app", "shop"), ("version", "v1")]), "ac");
        assert_eq!(select(&labelled, &[("app", "cart")]), "");
        assert_eq!(select(&labelled, &[]), "");
        labelled.remove(&pods[0]);
        assert_eq!(select(&labelled, &[("version", "v1")]), "c");
        pods.iter().for_each(|pod| labelled.remove(pod));
        assert!(labelled.pods.is_empty() && labelled.sets.is_empty());
    }
}
