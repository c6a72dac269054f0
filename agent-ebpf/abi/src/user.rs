//! The types in the form of user space's map library.
#![expect(unsafe_code, reason = "aya::Pod is a promise about memory layout")]

use crate::{Account, Address, AddressKey, BindKey, Config, ListenKey, NetKey, Origin, Place, Pod, Tuple, VerdictKey};

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: `repr(C)`, of integers only, without padding.
        unsafe impl aya::Pod for $name {}
    )* };
}

plain!(Account, Address, AddressKey, BindKey, Config, ListenKey, NetKey, Origin, Place, Pod, Tuple, VerdictKey);
