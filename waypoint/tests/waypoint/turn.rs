//! Whose turn the machine is: a test that measures time has it alone, all others share it.
//!
//! What a waypoint does with a slow endpoint is seen in milliseconds, and those are not its own while the tests beside
//! it take both cores.

use std::sync::{Condvar, Mutex, PoisonError};

/// How many share the machine, and whether one has it alone.
static HELD: Mutex<(usize, bool)> = Mutex::new((0, false));
static CHANGED: Condvar = Condvar::new();

/// A share of the machine, or all of it, until dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    alone: bool,
}

impl Turn {
    /// Waits while somebody has the machine alone. A test may take several.
    pub(crate) fn shared() -> Self {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = CHANGED.wait_while(held, |(_, alone)| *alone).unwrap_or_else(PoisonError::into_inner);
        held.0 += 1;
        Self { alone: false }
    }

    /// Waits until nobody else has a turn. A test that has one must not ask.
    pub(crate) fn alone() -> Self {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |(holders, alone): &mut (usize, bool)| *alone || *holders > 0;
        let mut held = CHANGED.wait_while(held, busy).unwrap_or_else(PoisonError::into_inner);
        held.1 = true;
        Self { alone: true }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if self.alone {
            held.1 = false;
        } else {
            held.0 -= 1;
        }
        drop(held);
        CHANGED.notify_all();
    }
}
