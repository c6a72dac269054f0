//! Kubernetes objects in the form we keep: checked, compact, names shared. Nothing here needs a second look.

mod any; // one object of whichever kind
mod authorization; // AuthorizationPolicy
mod guard; // what waypoints enforce, as far as agents go
mod peer; // PeerAuthentication
mod gateway; // Gateway, GatewayClass
mod service; // Service, EndpointSlice, ServiceEntry
mod pod; // Pod
mod meta; // what every object has
mod shared; // what many objects have in common is kept once
mod template; // what the pods of one workload have in common

pub use any::{KINDS, Kind, Object, Raw};
pub use authorization::{AuthorizationPolicy, Effect, TargetedPolicy};
pub use gateway::{Gateway, GatewayAddress, GatewayClass, WAYPOINT_CLASSES, WaypointFor};
pub use guard::{Guard, TargetRef};
pub(in crate::objects) use meta::Reader;
pub use meta::{Item, Labels, Meta, ObjectKey};
pub use peer::{PeerAuthentication, PeerMode};
pub use pod::{Node, Pod};
pub use service::{
    Endpoint, EndpointPort, EndpointSlice, EntryEndpoint, Resolution, Service, ServiceEntry, ServicePort, TargetPort,
    app_protocol,
};
pub use shared::Shared;
pub use template::{NamedPort, PodTemplate, Refusal};
