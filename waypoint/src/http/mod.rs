//! HTTP requests of a connection: reads, decides, forwards.

pub mod request; // one request, from its head to its answer
pub mod decide; // refuse, route, admit, choose
pub mod forward; // to a backend and back
pub mod upgrade; // connections that stop being HTTP
pub mod mirror; // copies sent elsewhere
pub mod judge; // who judges a request, and in which form
pub mod exchange; // a request, what was decided, our own answer
pub mod admit; // tokens, authorization, rate limits
pub mod outgoing; // the head for the backend
pub mod response; // response bodies, counted and timed
pub mod reply; // answers we make ourselves
