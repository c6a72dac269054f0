//! Pure. The last good version of a file or API object: a version that cannot be read changes the problems only.

use super::kind::Object;
use super::parse::Parsed;
use super::problem::{Problem, Severity};

/// The last good version of a file or API object.
#[derive(Debug, Default)]
pub struct LastGood {
    objects: Vec<Object>,
    problems: Vec<Problem>,
    /// Whether a version of it could be read.
    was_good: bool,
}

/// The changes that a new version makes.
#[derive(Debug, Default)]
pub struct Changed {
    /// Objects that are gone or changed, as they were.
    pub removed: Vec<Object>,
    /// Objects that are new or changed, as they are now.
    pub added: Vec<Object>,
    /// Problems that were not there before.
    pub problems: Vec<Problem>,
}

impl LastGood {
    /// Applies a new version. If it cannot be read, the last good version stays in effect. If there is none, the
    /// readable part takes effect, with substitutes for the policies that cannot be read.
    pub fn take(&mut self, parsed: Parsed, changed: &mut Changed) {
        let broken = parsed.is_broken();
        let Parsed { mut objects, stand_ins, mut problems } = parsed;
        let stays = broken && self.was_good;
        if !stays {
            for stand_in in stand_ins {
                objects.push(stand_in.object);
                problems.push(stand_in.problem);
            }
        }
        changed.problems.extend(problems.iter().filter(|problem| !self.problems.contains(problem)).cloned());
        self.problems = problems;
        self.was_good |= !broken;
        if !stays {
            changed.removed.append(&mut self.objects);
            changed.added.extend(objects.iter().cloned());
            self.objects = objects;
        }
    }

    /// Removes the file or object.
    pub fn end(mut self, changed: &mut Changed) {
        changed.removed.append(&mut self.objects);
    }

    /// The objects in effect.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// What is wrong with the newest version.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether anything of the newest version could not be read.
    pub fn is_broken(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::objects::kind::{Kind, Shared};
    use crate::objects::parse::parse;

    fn take(kept: &mut LastGood, text: &str) -> Changed {
        let mut changed = Changed::default();
        kept.take(parse(&Path::new("a.yaml").into(), text, &mut Shared::default()), &mut changed);
        changed
    }

    const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {}\n";

    #[test]
    fn what_cannot_be_read_keeps_what_was_last_said() {
        let (mut kept, broken) = (LastGood::default(), POLICY.replace("{}", "{rulez: []}"));
        let first = take(&mut kept, POLICY);
        assert_eq!((first.removed.len(), first.added.len(), first.problems.len()), (0, 1, 0));
        let second = take(&mut kept, &broken);
        assert_eq!((second.removed.len(), second.added.len(), second.problems.len()), (0, 0, 1));
        assert!(kept.is_broken() && kept.objects().len() == 1);
        assert_eq!(take(&mut kept, &broken).problems, [], "it was said already");
        let third = take(&mut kept, POLICY);
        assert_eq!((third.removed.len(), third.added.len()), (1, 1));
        assert!(!kept.is_broken() && kept.problems().is_empty());
        let mut changed = Changed::default();
        kept.end(&mut changed);
        assert_eq!((changed.removed.len(), changed.added.len()), (1, 0));
    }

    #[test]
    fn without_anything_to_keep_something_stands_in_until_it_can_be_read() {
        let (mut kept, broken) = (LastGood::default(), POLICY.replace("{}", "{rulez: []}"));
        let first = take(&mut kept, &broken);
        assert_eq!((first.added.len(), first.problems.len()), (1, 2));
        assert_eq!(first.added[0].kind(), Kind::AuthorizationPolicy);
        assert_eq!(take(&mut kept, &broken).added.len(), 1, "still nothing was good");
        assert_eq!(take(&mut kept, POLICY).removed.len(), 1);
    }
}
