//! Compiles objects into the plan that the waypoint runs by. All of it is pure: the same objects give the same plan and
//! the same status conditions, whichever source they came from.

pub mod explain; // which setting comes from where
pub mod compile; // everything -> the plan
pub mod attach; // which routes apply to which service and port
pub mod gateways; // whom the Gateways admit
pub mod plan; // what was compiled
pub mod security; // authorization and tokens
pub mod policies; // settings by what they apply to
pub mod overlays; // what each kind of policy says
pub mod rules; // the rules of a route
pub mod backends; // where it sends
pub mod filters; // what a rule changes
pub mod reference; // which service is meant
pub mod matches; // what it matches
pub mod services; // the services that are referred to
pub mod history; // the last good versions
pub mod unique; // one object of one key
pub mod status; // conditions
pub mod nodes; // where nodes are
pub mod object; // one object as written
pub mod schema; // the kinds

pub use compile::{GatewayName, compile, of_workload};
pub use explain::{Explained, explain};
pub use history::History;
pub use nodes::node_addresses;
pub use object::Object;
pub use plan::{Plan, PortPlan, Routing, ServicePlan, address_of, workload_key};
pub use services::Services;
pub use status::ObjectStatus;
