//! The node agent: captures pods' TCP, carries it over HBONE, enforces L4 policy.
//!
//! Read from the top: `app` builds every part; `enroll` captures the workloads of this node; what they connect to goes
//! through `connection::outbound`, what arrives through `connection::inbound`. A module uses only modules declared below it.

pub mod cli; // the command line
#[cfg(test)]
mod sizes; // what one connection costs in memory
mod app; // builds every part, runs, drains
mod witness; // asks the kernel where addresses are that several pods claim
mod admin; // what the agent adds to the admin server
mod enroll; // which workloads are in the mesh, and making it so
mod connection; // one connection, from accept to access log
mod node; // what every connection shares
mod passthrough; // connections that the kernel left to the application
mod pod; // one captured workload, and what it may use
mod listen; // sockets inside pods, and what steers traffic to them
mod balance; // which endpoint: least request among two choices
mod connections; // what is open now, and closing what policy no longer allows
mod ready; // whether the agent does its work
pub mod config; // flags and environment
pub mod capture; // the kernel half, seen from here
