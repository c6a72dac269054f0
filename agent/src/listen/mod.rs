//! Sockets that the agent listens on inside pods, and what steers traffic to them.

pub(crate) mod lost; // listeners that somebody has destroyed
pub(crate) mod steering; // what steers traffic to this process
pub(crate) mod redirected; // --capture none
pub(crate) mod listeners; // the listeners of one workload
pub(crate) mod accept; // accepting, also when descriptors run out
