//! The state of the mesh: one writer, many readers.
//!
//! [`store::Store`] alone applies updates; it publishes [`snapshot::Snapshot`]s, which share everything unchanged, so
//! that the cost of a change depends on the change and not on the size of the mesh.

pub mod store; // applies a batch of updates and publishes the next snapshot; the only writer
pub mod snapshot; // the read side: by uid, by address, by host; policies of a workload
pub mod endpoints; // endpoints with their load and passive health

#[cfg(test)]
mod tests;
