//! Connections arriving at a workload.

pub(crate) mod direct; // one connection from another workload of this node, without a tunnel
pub(crate) mod tunnel; // one HBONE connection: TLS as the workload, then each CONNECT
pub(crate) mod request; // one CONNECT, from head to access log
pub(crate) mod plaintext; // one connection without identity: judge it, pass it on
pub(crate) mod forward; // takes an admitted connection, dials the application, copies
pub(crate) mod target; // may this CONNECT reach that address here
