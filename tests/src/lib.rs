//! The harness: a mesh on one machine in network namespaces.
