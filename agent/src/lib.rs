//! The node agent: captures pods' TCP, carries it over HBONE, enforces L4 policy.
//!
//! Read from the top: `app` builds every part; `enroll` captures the workloads of this node; what they connect to goes
//! through `outbound`, what arrives through `inbound`. A module uses only modules declared below it.

pub mod cli; // the command line
#[cfg(test)]
mod sizes; // what one connection costs in memory
mod app; // builds every part, runs, drains
mod witness; // asks the kernel where addresses are that several pods claim
mod dump; // what the agent adds to the admin server
mod explain; // the path of a connection and the verdict, without making it
mod enroll; // which workloads are in the mesh, and making it so
mod serve; // the accept loops of one workload
mod outbound; // connections leaving a workload
mod inbound; // connections arriving at a workload
mod carry; // the bytes of one connection
mod record; // what is said of one connection when it is over
mod failure; // why one connection was not carried to its end
mod node; // what every connection shares
mod kernel_reports; // reads what the kernel half reports
mod passed; // connections that the kernel left to the application
mod captures; // what is captured, for the admin server
mod pod; // one captured workload
mod share; // what each workload holds of the agent
mod limits; // how much that may be
mod lost; // listeners that somebody has destroyed
mod steering; // what steers traffic to this process
mod redirected; // --capture none
mod listeners; // the listeners of one workload
mod sockets; // the TCP sockets of a workload, as the kernel lists them
mod destroy; // ends a connection that does not pass through us
mod accept; // accepting, also when descriptors run out
mod ready; // whether the agent does its work
pub mod config; // flags and environment
pub mod capture; // the kernel half, seen from here
