//! Which allocator a program uses, and how it is set.
//!
//! jemalloc gives memory back after a burst, and takes a tenth less CPU per byte than glibc's malloc (BENCHMARKS.md).

pub use tikv_jemallocator::Jemalloc;

/// Makes jemalloc the allocator of the program in whose `main.rs` it stands. A macro, because an allocator of a library
/// would also be that of every test and bench that links it.
///
/// The settings are read by jemalloc when it starts. Few arenas: there are few threads, and what one frees another can
/// use. No huge pages: they are taken whole. Freed memory goes back to the kernel within two seconds, also when nothing
/// is asked for.
#[macro_export]
macro_rules! allocator {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::allocator::Jemalloc = $crate::allocator::Jemalloc;

        #[allow(unsafe_code, reason = "the symbol is jemalloc's")]
        // SAFETY: jemalloc looks for this name and reads a C string there; a slice begins with the pointer to it.
        #[unsafe(export_name = "_rjem_malloc_conf")]
        pub static MALLOC_CONF: &[u8] =
            b"narenas:2,tcache_max:4096,thp:never,background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:0\0";
    };
}
