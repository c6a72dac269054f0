//! Connections arriving at a workload.

pub(crate) mod direct; // one connection from another workload of this node, without a tunnel
pub(crate) mod tunnel; // one HBONE connection: TLS as the workload, then each CONNECT
pub(crate) mod request; // one CONNECT, from head to access log
pub(crate) mod plaintext; // one plaintext connection: authorize it, forward it
pub(crate) mod forward; // dials the application for an admitted connection
pub(crate) mod target; // which address a CONNECT may reach here
