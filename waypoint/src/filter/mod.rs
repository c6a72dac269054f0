//! Route filters: how a route changes its requests and responses.
//!
//! The Gateway API leaves the order of filters open. Ours: CORS preflight, redirect, header changes, path and host,
//! copies (which see the changed request), then the filters of the backend. Responses go through them in reverse
//! order.

pub mod cors; // which origins may read the answer
pub mod redirect; // an answer with a Location
pub mod rewrite; // another path or host
pub mod headers; // set, add, remove

pub use cors::Cors;
pub use headers::HeaderChanges;
pub use redirect::{Asked, Redirect};
pub use rewrite::{PathChange, Rewrite};
