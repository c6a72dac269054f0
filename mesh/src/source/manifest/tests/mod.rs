//! Manifests in, model out.

mod pods;
mod running;
mod support;
