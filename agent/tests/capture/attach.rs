//! Who else is on the machine.
#![expect(unsafe_code, reason = "a stranger's program is attached with bpf(2)")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use agent::capture::kernel::{self, Level};
use agent::capture::{Capture, CaptureError};

use crate::rig::Rig;

/// BPF_PROG_LOAD and BPF_PROG_ATTACH.
const LOAD: i64 = 5;
const ATTACH: i64 = 8;

fn bpf(command: i64, attr: &[u32; 32]) -> i32 {
    // SAFETY: the attribute is plain numbers, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result as i32
}

fn low(pointer: *const u8) -> u32 {
    pointer as u64 as u32
}

fn high(pointer: *const u8) -> u32 {
    (pointer as u64 >> 32) as u32
}

/// Attaches `return 1` to `connect4` of a cgroup as its only owner: flags 0.
fn occupy(group: &Path) {
    // r0 = 1; exit
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let license = c"GPL".as_ptr().cast::<u8>();
    let mut attr = [0; 32];
    // prog_type CGROUP_SOCK_ADDR, two instructions, expected_attach_type INET4_CONNECT
    attr[0] = 18;
    attr[1] = 2;
    (attr[2], attr[3]) = (low(code.as_ptr().cast()), high(code.as_ptr().cast()));
    (attr[4], attr[5]) = (low(license), high(license));
    attr[17] = 10;
    let program = bpf(LOAD, &attr);
    let target = File::open(group).unwrap();
    let mut attr = [0; 32];
    attr[0] = target.as_raw_fd() as u32;
    attr[1] = program as u32;
    attr[2] = 10;
    bpf(ATTACH, &attr);
    // SAFETY: ours, and attached by now.
    unsafe { libc::close(program) };
}

#[test]
fn a_strangers_exclusive_program_is_named_as_the_reason() {
    let rig = Rig::new();
    occupy(&rig.cgroup(""));
    let Err(error) = Capture::open(rig.config()) else { panic!("attached beside an exclusive program") };
    assert!(matches!(&error, CaptureError::AttachRefused { program, .. } if program == "outbound4"), "{error}");
    assert!(error.to_string().contains("bpftool cgroup tree"), "{error}");
}

#[test]
fn this_machine_passes_its_own_check() {
    let checks = kernel::probe();
    assert!(checks.len() > 8);
    for check in checks {
        assert_ne!(check.level, Level::Error, "{check:?}");
        assert_eq!(check.hint.is_empty(), check.level == Level::Ok, "{check:?}");
    }
}
