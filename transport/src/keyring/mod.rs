//! One live certificate per identity, renewed before it expires.

mod ring; // `certificate(&Identity)`: answers from memory or waits for the first issue
mod worker; // one task that issues, renews, retries and forgets
mod shared; // what ring and worker share
mod entry; // what is known of one identity
mod schedule; // what to issue next and when; a queue with no clock

pub use entry::Listed;
pub use ring::{Keyring, KeyringError, Options};

#[cfg(test)]
mod tests;
