//! Socket options that the socket library lacks, and the type of a namespace file.
#![expect(unsafe_code, reason = "setsockopt, getsockopt and ioctl take pointers and numbers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// SO_NETNS_COOKIE (include/uapi/asm-generic/socket.h, 5.14).
const NETNS_COOKIE: i32 = 71;
/// IPV6_TRANSPARENT (include/uapi/linux/in6.h).
const V6_TRANSPARENT: i32 = 75;
/// IP_BIND_ADDRESS_NO_PORT (include/uapi/linux/in.h).
const BIND_ADDRESS_NO_PORT: i32 = 24;
/// NS_GET_NSTYPE (include/uapi/linux/nsfs.h, 4.11): `_IO(0xb7, 3)`.
const GET_NAMESPACE_TYPE: libc::Ioctl = 0xb703;
/// SO_BINDTOIFINDEX (include/uapi/asm-generic/socket.h, 5.1).
const BIND_TO_INDEX: i32 = 62;

fn set(socket: &impl AsFd, level: i32, name: i32, value: u32) -> io::Result<()> {
    let length = size_of::<u32>() as u32;
    // SAFETY: the value is there and has the length that is given.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The cookie of a socket's network namespace.
pub(super) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as u32;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: there is room for the length that is given.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// IP_TRANSPARENT or IPV6_TRANSPARENT: allows binding to and accepting for foreign addresses.
pub(super) fn set_transparent(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, V6_TRANSPARENT) } else { (libc::IPPROTO_IP, libc::IP_TRANSPARENT) };
    set(socket, level, name, 1)
}

/// IP_BIND_ADDRESS_NO_PORT: `bind` to port 0 leaves the choice to `connect`, which knows the whole tuple.
pub(super) fn set_bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
}

/// SO_BINDTOIFINDEX: the socket sends and receives through this interface only.
pub(super) fn bind_to_interface(socket: &impl AsFd, index: u32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, BIND_TO_INDEX, index)
}

/// The `CLONE_NEW…` constant of a namespace file.
pub(super) fn namespace_type(file: &impl AsFd) -> io::Result<i32> {
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET_NAMESPACE_TYPE) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
