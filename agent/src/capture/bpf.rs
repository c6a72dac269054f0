//! bpf(2) commands that the map library lacks: programs from instructions, links that are adopted and updated.
#![expect(unsafe_code, reason = "bpf(2) takes a union of structures with pointers in them")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_link_info, bpf_prog_type};

/// Size of the verifier log in bytes.
const LOG_SIZE: usize = 1 << 20;

/// Program type and attach type for the verifier.
#[derive(Clone, Copy)]
pub(super) struct ProgramKind {
    pub(super) program: bpf_prog_type,
    pub(super) attach: bpf_attach_type,
}

/// Why a program could not be loaded.
pub(super) struct Rejected {
    pub(super) error: io::Error,
    /// The last lines of the verifier log.
    pub(super) log: String,
}

fn empty() -> bpf_attr {
    // SAFETY: all variants of the union are integers, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the union outlives the call, and what it points to is kept alive by the callers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i64, attr as *mut bpf_attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn call_for_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: these commands return a new file descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The name of a program or map in the kernel's form: at most 15 bytes.
fn name16(name: &str) -> [libc::c_char; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().take(15).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    out
}

/// BPF_PROG_LOAD. After a rejection it is repeated with the verifier log.
pub(super) fn load_program(
    name: &str,
    kind: ProgramKind,
    instructions: &[bpf_insn],
    license: &CStr,
) -> Result<OwnedFd, Rejected> {
    let attempt = |log: &mut [u8]| {
        let mut attr = empty();
        let fields = bpf_attr_program(&mut attr);
        fields.prog_type = kind.program as u32;
        fields.expected_attach_type = kind.attach as u32;
        fields.insn_cnt = instructions.len() as u32;
        fields.insns = instructions.as_ptr() as u64;
        fields.license = license.as_ptr() as u64;
        fields.prog_name = name16(name);
        if !log.is_empty() {
            fields.log_level = 1;
            fields.log_size = log.len() as u32;
            fields.log_buf = log.as_mut_ptr() as u64;
        }
        call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
    };
    attempt(&mut []).or_else(|error| {
        let mut log = vec![0; LOG_SIZE];
        // The second attempt may succeed where the first was interrupted.
        attempt(&mut log).map_err(|_| {
            let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            Rejected { error, log: lines[lines.len().saturating_sub(20)..].join("\n") }
        })
    })
}

fn bpf_attr_program(attr: &mut bpf_attr) -> &mut aya_obj::generated::bpf_attr__bindgen_ty_4 {
    // SAFETY: every variant of the union is plain integers.
    unsafe { &mut attr.__bindgen_anon_3 }
}

/// BPF_OBJ_PIN.
pub(super) fn pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    let fields = unsafe { &mut attr.__bindgen_anon_4 };
    fields.pathname = path.as_ptr() as u64;
    fields.bpf_fd = fd.as_fd().as_raw_fd() as u32;
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// BPF_OBJ_GET.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    unsafe { &mut attr.__bindgen_anon_4 }.pathname = path.as_ptr() as u64;
    call_for_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// BPF_LINK_CREATE: attaches a program to a cgroup or a network namespace.
pub(super) fn link_create(program: impl AsFd, target: impl AsFd, attach: bpf_attach_type) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    let fields = unsafe { &mut attr.link_create };
    fields.__bindgen_anon_1.prog_fd = program.as_fd().as_raw_fd() as u32;
    fields.__bindgen_anon_2.target_fd = target.as_fd().as_raw_fd() as u32;
    fields.attach_type = attach as u32;
    call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// BPF_LINK_UPDATE: replaces the attached program atomically.
pub(super) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    let fields = unsafe { &mut attr.link_update };
    fields.link_fd = link.as_fd().as_raw_fd() as u32;
    fields.__bindgen_anon_1.new_prog_fd = program.as_fd().as_raw_fd() as u32;
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The cgroup with this id; 0 when it is gone.
    Cgroup(u64),
    /// The network namespace with this inode; 0 when it is gone.
    Netns(u32),
    /// A target of another kind.
    Other,
}

/// BPF_OBJ_GET_INFO_BY_FD of a link.
pub(super) fn link_target(link: impl AsFd) -> io::Result<Target> {
    let info: bpf_link_info = info(link)?;
    // SAFETY: the kernel has filled in the variant that goes with the type.
    Ok(unsafe {
        match info.type_ {
            3 => Target::Cgroup(info.__bindgen_anon_1.cgroup.cgroup_id),
            5 => Target::Netns(info.__bindgen_anon_1.netns.netns_ino),
            _ => Target::Other,
        }
    })
}

fn info<T: Copy>(fd: impl AsFd) -> io::Result<T> {
    let mut info = MaybeUninit::<T>::zeroed();
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    let fields = unsafe { &mut attr.info };
    fields.bpf_fd = fd.as_fd().as_raw_fd() as u32;
    fields.info_len = size_of::<T>() as u32;
    fields.info = info.as_mut_ptr() as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: these structures are plain integers; what an older kernel does not fill in stays zero.
    Ok(unsafe { info.assume_init() })
}

/// Creates a map of type SK_STORAGE, for which the kernel requires BTF of key and value.
pub(super) fn create_socket_storage(name: &str, value_size: u32, flags: u32) -> io::Result<OwnedFd> {
    let btf = load_btf(&storage_btf(value_size))?;
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    let fields = unsafe { &mut attr.__bindgen_anon_1 };
    fields.map_type = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32;
    fields.key_size = 4;
    fields.value_size = value_size;
    fields.map_flags = flags;
    fields.map_name = name16(name);
    fields.btf_fd = btf.as_raw_fd() as u32;
    fields.btf_key_type_id = 1;
    fields.btf_value_type_id = 3;
    call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: every variant of the union is plain integers.
    let fields = unsafe { &mut attr.__bindgen_anon_7 };
    fields.btf = btf.as_ptr() as u64;
    fields.btf_size = btf.len() as u32;
    call_for_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// BTF with three types: 1 is a 32-bit integer (the key), 2 a byte, 3 an array of `value_size` bytes (the value).
/// Layout: Documentation/bpf/btf.rst of the kernel.
fn storage_btf(value_size: u32) -> Vec<u8> {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    let strings = b"\0u32\0u8\0";
    let types: [u32; 14] = [1, INT, 4, 32, 5, INT, 1, 8, 0, ARRAY, 0, 2, 1, value_size];
    let types_size = (types.len() * 4) as u32;
    let header = [24, 0, types_size, types_size, strings.len() as u32];
    let mut btf = Vec::new();
    btf.extend(0xeb9f_u16.to_ne_bytes());
    btf.extend([1, 0]); // version, flags
    btf.extend(header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()));
    btf.extend(strings);
    btf
}
