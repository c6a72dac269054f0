//! Choosing one endpoint of a service.

pub mod pick; // least request among two choices, over what locality leaves
pub mod health; // which endpoints are well enough
pub mod locality; // which endpoints are close enough
