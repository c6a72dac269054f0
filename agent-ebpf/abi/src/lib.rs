//! Map keys and values that the two halves of capture share.
#![no_std]
