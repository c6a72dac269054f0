//! The node agent: captures pods' TCP, carries it over HBONE, enforces L4 policy.
//!
//! Read from the top: `app` builds every part; `enroll` captures the workloads of this node; what they connect to goes
//! through `connection::outbound`, what arrives through `connection::inbound`. A module uses only modules declared
//! below it.

pub mod cli; // the command line
#[cfg(test)]
mod docs_tests; // documents against metrics
#[cfg(test)]
mod sizes; // memory per connection
mod app; // builds every part, runs, drains
mod witness; // asks the kernel which pod has a disputed address
mod admin; // what the agent adds to the admin server
mod enroll; // reconciles the captured workloads with the mesh
mod connection; // one connection, from accept to access log
mod node; // what every connection shares
mod passthrough; // connections that the kernel passes through
mod pod; // one captured workload and its quota
mod listen; // listeners inside pods, and the redirection to them
mod balance; // endpoint selection: power of two choices
mod connections; // open connections, closed when a policy change forbids them
mod view; // what the agent's own parts of /config_dump look like
mod counters; // what is counted besides traffic
mod ready; // readiness
pub mod config; // flags and environment
pub mod capture; // the user-space half of eBPF capture
