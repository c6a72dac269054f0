//! `cargo xtask ci`: everything that a change must pass.

use anyhow::Result;

use crate::test::Level;
use crate::{check, test};

/// Checks first, because they are quick; then all tests.
pub(crate) fn run() -> Result<()> {
    check::run_all()?;
    test::run(Level::All, &[])
}
