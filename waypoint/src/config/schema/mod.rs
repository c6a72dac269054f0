//! The kinds that waypoints read, as they are written. Older versions have the same fields under other names.

pub mod route; // HTTPRoute, GRPCRoute, TCPRoute
pub mod gateway; // Gateway
pub mod security; // AuthorizationPolicy, RequestAuthentication
pub mod policy; // MeshPolicy, XBackendTrafficPolicy, DestinationRule
