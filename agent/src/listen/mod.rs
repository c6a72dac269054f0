//! Listeners inside pods, and the redirection of traffic to them.

pub(crate) mod lost; // destroyed listeners, for the reconciler
pub(crate) mod steering; // the redirection: eBPF, or somebody else's iptables rules
pub(crate) mod redirected; // --capture none
pub(crate) mod listeners; // the listeners of one workload
pub(crate) mod accept; // accept loop, even when descriptors run out
