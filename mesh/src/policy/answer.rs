//! Pure. Three-valued logic: a policy may depend on something that is not known here.

use std::fmt;

/// Whether something matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It matches.
    Yes,
    /// It does not.
    No,
    /// It depends on something that is not known here: an address, a request, or how a backend reads a request.
    Depends,
}

impl Answer {
    /// The answer for a negated test.
    pub fn negated(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Depends => Self::Depends,
        }
    }
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Depends => "cannot be judged here",
        })
    }
}

/// Whether all hold.
pub fn all(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut result = Answer::Yes;
    for answer in answers {
        match answer {
            Answer::No => return Answer::No,
            Answer::Depends => result = Answer::Depends,
            Answer::Yes => {}
        }
    }
    result
}

/// Whether any holds.
pub fn any(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut result = Answer::No;
    for answer in answers {
        match answer {
            Answer::Yes => return Answer::Yes,
            Answer::Depends => result = Answer::Depends,
            Answer::No => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::Answer::{Depends, No, Yes};
    use super::*;

    #[test]
    fn what_is_not_known_decides_only_when_nothing_else_does() {
        for (answers, both, either) in [
            ([Yes, Yes], Yes, Yes),
            ([Yes, No], No, Yes),
            ([No, No], No, No),
            ([Yes, Depends], Depends, Yes),
            ([No, Depends], No, Depends),
            ([Depends, Depends], Depends, Depends),
        ] {
            for answers in [answers, [answers[1], answers[0]]] {
                assert_eq!((all(answers.into_iter()), any(answers.into_iter())), (both, either), "{answers:?}");
            }
        }
        assert_eq!((all([].into_iter()), any([].into_iter())), (Yes, No));
        assert_eq!([Yes, No, Depends].map(Answer::negated), [No, Yes, Depends]);
    }
}
