//! JWKS: the keys of token issuers, fetched before they are needed.

pub mod jwks; // key sets, as they were last fetched
pub mod fetches; // whose keys are fetched next
