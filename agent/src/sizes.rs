//! What one connection costs in memory, as far as the compiler decides it. Budgets: DESIGN 8, idle connections.

use crate::connections::Open;

use crate::connection::inbound::{plaintext, request, tunnel};
use crate::connection::outbound::connection;
use crate::connection::record::Record;

/// Size of the future that a function returns.
macro_rules! future {
    ($($arg:ident),* => $function:path) => {{
        fn size<$($arg,)* F: Future>(_: impl Fn($($arg),*) -> F) -> usize {
            size_of::<F>()
        }
        size($function)
    }};
}

#[test]
fn an_idle_connection_holds_little() {
    assert!(future!(A, B, C, D, E => connection::carry) <= 600);
    assert!(future!(A, B, C, D => request::carry) <= 600);
    assert!(future!(A, B, C, D, E => plaintext::carry) <= 1000);
    assert!(future!(A, B, C, D, E, G => tunnel::serve) <= 6000);
    assert!(size_of::<Record>() <= 144);
    assert!(size_of::<Open>() <= 320);
}
