//! Authority between namespaces: this module alone decides what an object of one namespace may do to the addresses, the
//! capture, the waypoint, the policy and the routes of another.
//!
//! Pure. Sources ask it while they turn objects into the model, the waypoint while it compiles routes and dials, so
//! that no reader of objects can bypass it. ARCHITECTURE.md has the model as a table. When in doubt an object has no
//! effect, and a problem is reported for it.

pub mod addresses; // which object owns an address
pub mod ranges; // whether pod and Service CIDRs support a claim to an address
pub mod claims; // which clients a claim to an external address or host applies to
pub mod dial; // where a waypoint may dial
pub mod listeners; // which routes a Gateway's listeners admit
pub mod reach; // how far routes and rules about services reach
pub mod enforcement; // whether a port behind a waypoint accepts traffic that bypasses it
pub mod attachment; // what a policy with targetRefs applies to
pub mod standing; // what a Gateway and a service may decide about a workload
pub mod tenancy; // root namespaces, and which namespace decides for which
