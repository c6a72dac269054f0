//! The window onto a running process: three small HTTP servers, what they answer, and the client that the CLI asks with.
//!
//! | server | default | routes |
//! |---|---|---|
//! | admin | 127.0.0.1:15000 | `/config_dump[/<part>]`, `/metrics`, `/stats/prometheus`, `/healthz/ready`, `/version`, `POST /logging?level=`, `POST /quitquitquit`, and what the process adds, such as `/explain` |
//! | stats | 0.0.0.0:15020 | `/metrics`, `/stats/prometheus`, `/healthz/ready` |
//! | ready | 0.0.0.0:15021 | `/healthz/ready` |

mod client;
mod server;
mod window;
mod route;
pub mod dump; // what the parts of /config_dump look like

pub use client::{Client, ClientError};
pub use route::{Query, Surface};
pub use server::{Bound, ServeError};
pub use window::{Answer, Dump, QueryFn, Refusal, Window};
