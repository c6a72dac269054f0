//! Kubernetes objects in the form that is kept in memory: validated, compact, names interned. They need no further
//! checks.

mod any; // how an object of each kind is read
mod object; // an object of whichever kind
mod authorization; // AuthorizationPolicy
mod guard; // what waypoints enforce, as far as agents go
mod peer; // PeerAuthentication
mod gateway; // Gateway, GatewayClass
mod service; // Service, EndpointSlice, ServiceEntry
mod pod; // Pod
mod item; // an object of one kind
mod meta; // what every object has
mod shared; // what many objects have in common is kept once
mod template; // what the pods of one workload have in common
mod known; // the kinds that are read

pub use authorization::{AuthorizationPolicy, Effect, TargetedPolicy};
pub use gateway::{Gateway, GatewayAddress, GatewayClass, WAYPOINT_CLASSES, WaypointFor};
pub use guard::{Guard, TargetRef};
pub use item::{Head, Item};
pub use known::{Documents, KINDS, Kind};
pub(in crate::objects) use meta::Reader;
pub use meta::{Labels, Meta, ObjectKey};
pub use object::{Body, Object};
pub use peer::{PeerAuthentication, PeerMode};
pub use pod::{Node, Pod, ServiceCidr};
pub use service::{
    Endpoint, EndpointPort, EndpointSlice, EntryEndpoint, Resolution, Service, ServiceEntry, ServicePort, TargetPort,
    app_protocol,
};
pub use shared::Shared;
pub use template::{NamedPort, PodTemplate, Refusal};
