//! JSON web tokens of callers (RequestAuthentication): a request without a token is let through, one with a token that
//! is not valid is refused.

mod find; // the token of a request
mod verify; // whether it is good
mod keys; // which keys may verify it
mod claims; // what it says
mod json; // JSON with one reading

pub use claims::Claims;
pub use find::{Found, Place, cookie, find, remove_cookie};
pub use keys::{KeySource, key_set};
pub use verify::{JwtError, JwtRule, claimed_issuer};

#[cfg(test)]
mod tests; // tokens with every flaw
