//! The kinds that waypoints read, as they are written. Older versions have the same fields under other names.

pub mod route; // HTTPRoute, GRPCRoute, TCPRoute
pub mod policy; // MeshPolicy, XBackendTrafficPolicy, DestinationRule
pub mod security; // AuthorizationPolicy, RequestAuthentication
