//! Who may ask for what.

pub mod authorize; // L7 authorization
pub mod jwt; // tokens of callers
