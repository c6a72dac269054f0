//! What we know of the mesh: one writer, many readers.
//!
//! [`store::Store`] alone applies updates; it publishes [`snapshot::Snapshot`]s, which share everything that did not
//! change, so that the cost of a change follows the change and not the size of the mesh.

pub mod store; // applies a batch of updates and publishes the next snapshot; the only writer
pub mod snapshot; // the read side: by uid, by address, by host; policies of a workload
pub mod endpoints; // the endpoints of one service and how busy each is

#[cfg(test)]
mod tests;
