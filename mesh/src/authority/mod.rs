//! Who may say what about whom: the one place in which it is decided what an object of one namespace may do to the
//! addresses, the capture, the waypoint, the policy and the routes of another.
//!
//! Pure. Sources ask it while they turn objects into the model, the waypoint while it compiles routes and dials, so that
//! no reader of objects has another way. ARCHITECTURE.md has the model as a table. In doubt an object has no effect, and
//! says so.

pub mod addresses; // whose an address is
pub mod ranges; // what ranges say of a claim to one
pub mod claims; // for whom a claim to what is not the mesh's counts
pub mod dial; // where a waypoint may dial
pub mod listeners; // whom a Gateway's listeners admit
pub mod reach; // how far routes and rules about services reach
pub mod enforcement; // whether a port behind a waypoint takes what did not come through it
pub mod attachment; // what a policy with targetRefs applies to
pub mod standing; // what a Gateway and a service may say about a workload
pub mod tenancy; // whose word counts for whom
