//! Where configuration comes from. Every source speaks [`crate::model::update::Update`] and nothing else.

pub mod manifest; // source 1: Kubernetes manifests in a folder
