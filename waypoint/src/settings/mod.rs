//! Settings of a request beside its route: retries, deadlines, load balancing, circuit breaking, limits, sampling.
//!
//! Every source (route rule, MeshPolicy, XBackendTrafficPolicy, DestinationRule, the built-in defaults) says only what
//! it knows, as an overlay; the most specific one wins field by field, and each value remembers where it came from.

pub mod merge; // overlays on defaults, with the source of each value
pub mod fields; // the settings, their defaults and names
pub mod value; // how values print

pub use fields::{Overlay, SHARED, Settings};
pub use merge::{Layer, explain, merge};
pub use value::{Effective, GrpcCodes, HashOn, Show};
