//! One live certificate per identity, renewed before it expires.

mod ring; // the keyring's interface: answers from memory or waits for the first issue
mod worker; // the task that issues, renews, retries and forgets
mod shared; // state shared by ring and worker
mod entry; // state of one identity
mod schedule; // what to issue next and when; without a clock of its own

pub use entry::Listed;
pub use ring::{Keyring, KeyringError, Options};

#[cfg(test)]
mod tests;
