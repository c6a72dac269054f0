//! The embedded eBPF object: maps are created or taken over, programs loaded from instructions.
//!
//! The map library's own loader parses the kernel's BTF (megabytes, 30 ms) for every object, and a pod needs a program
//! of its own. Here the object is parsed once, and a pod costs the verifier's time only.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use agent_abi::POD_ID_PLACEHOLDER;
use aya::maps::MapData;
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_map_type, bpf_prog_type};

use super::bpf::{self, ProgramKind};
use super::error::CaptureError;

/// The object; empty if the agent was built without one.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/culvert.bpf.o"));
/// Fingerprint of the object's sources. An attached program with the same one need not be replaced.
pub(super) const FINGERPRINT: u64 = parse_hex(env!("CULVERT_BPF_SOURCES"));

/// The programs and their types.
const KINDS: [(&str, ProgramKind); 10] = {
    use bpf_attach_type::*;
    use bpf_prog_type::*;
    const fn kind(program: bpf_prog_type, attach: bpf_attach_type) -> ProgramKind {
        ProgramKind { program, attach }
    }
    [
        ("outbound4", kind(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT)),
        ("outbound6", kind(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT)),
        ("bind4", kind(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND)),
        ("bind6", kind(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_BIND)),
        ("account", kind(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS)),
        ("origin", kind(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS)),
        ("agent_origin", kind(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS)),
        (LOOKUP, kind(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP)),
        (LOOKUP_BY_TUPLE, kind(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP)),
        (SHUT, kind(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP)),
    ]
};
/// The program of a pod on kernels since 5.17.
pub(super) const LOOKUP: &str = "lookup";
/// The program of a pod on older kernels.
pub(super) const LOOKUP_BY_TUPLE: &str = "lookup_by_tuple";
/// The program of a pod that cannot be captured.
pub(super) const SHUT: &str = "shut";

/// Whether this build has an object.
pub(super) fn is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// The instructions of all programs, with map references resolved.
pub(super) struct Programs {
    code: HashMap<String, Vec<bpf_insn>>,
    license: CString,
    /// The maps that nobody has taken out. The instructions refer to them by file descriptor, so all must stay open.
    pub(super) maps: HashMap<String, MapData>,
}

/// Parses the object. Maps that are pinned in `directory` are taken over, the others created and pinned there.
pub(super) fn open(directory: &Path) -> Result<Programs, CaptureError> {
    if !is_embedded() {
        return Err(CaptureError::NoObject);
    }
    let bad = |error: &dyn std::fmt::Display| CaptureError::BadObject(error.to_string());
    let mut object = aya_obj::Object::parse(OBJECT).map_err(|error| bad(&error))?;
    let mut maps = HashMap::new();
    for (name, definition) in &object.maps {
        maps.insert(name.clone(), open_map(&directory.join(name), name, definition)?);
    }
    let definitions = object.maps.clone();
    let places = maps.iter().map(|(name, map)| (name.as_str(), map.fd().as_fd().as_raw_fd(), &definitions[name]));
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(places, &sections).map_err(|error| bad(&error))?;
    object.relocate_calls(&sections).map_err(|error| bad(&error))?;
    let code = object.programs.iter().map(|(name, program)| {
        let function = object.functions.get(&program.function_key()).ok_or_else(|| bad(&name))?;
        Ok((name.clone(), function.instructions.clone()))
    });
    let code = code.collect::<Result<_, CaptureError>>()?;
    Ok(Programs { code, license: object.license, maps })
}

impl Programs {
    /// Loads a program of the node.
    pub(super) fn load(&self, name: &str) -> Result<OwnedFd, CaptureError> {
        load(name, self.code(name)?, &self.license)
    }

    /// Loads an instance of a pod's program, with the pod's id as a constant.
    pub(super) fn load_for_pod(&self, name: &str, pod: u32) -> Result<OwnedFd, CaptureError> {
        let mut code = self.code(name)?.to_vec();
        if replace_constant(&mut code, POD_ID_PLACEHOLDER, pod.into()) == 0 {
            return Err(CaptureError::BadObject(format!("`{name}` has no place for the pod's id")));
        }
        load(name, &code, &self.license)
    }

    fn code(&self, name: &str) -> Result<&[bpf_insn], CaptureError> {
        let code = self.code.get(name).ok_or_else(|| CaptureError::BadObject(format!("it has no program `{name}`")))?;
        Ok(code)
    }
}

/// The attach type of a program.
pub(super) fn attach_type(name: &str) -> Result<bpf_attach_type, CaptureError> {
    kind(name).map(|kind| kind.attach)
}

fn kind(name: &str) -> Result<ProgramKind, CaptureError> {
    let found = KINDS.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind).ok_or_else(|| CaptureError::BadObject(format!("nobody knows a program `{name}`")))
}

fn load(name: &str, code: &[bpf_insn], license: &std::ffi::CStr) -> Result<OwnedFd, CaptureError> {
    bpf::load_program(name, kind(name)?, code, license).map_err(|rejected| CaptureError::Rejected {
        program: name.to_owned(),
        source: rejected.error,
        log: rejected.log,
    })
}

/// Opens a pinned map, or creates and pins it.
fn open_map(path: &Path, name: &str, definition: &aya_obj::Map) -> Result<MapData, CaptureError> {
    let failed = |error: aya::maps::MapError| CaptureError::BadObject(format!("map {name}: {error}"));
    if path.exists() {
        let map = MapData::from_pin(path).map_err(failed)?;
        return if matches(&map, definition).map_err(failed)? {
            Ok(map)
        } else {
            Err(CaptureError::ForeignMap { path: path.to_owned() })
        };
    }
    let map = if definition.map_type() == bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32 {
        let fd = bpf::create_socket_storage(name, definition.value_size(), definition.map_flags());
        MapData::from_fd(fd.map_err(CaptureError::file(path))?).map_err(failed)?
    } else {
        MapData::create(definition.clone(), name, None).map_err(failed)?
    };
    bpf::pin(map.fd(), path).map_err(CaptureError::file(path))?;
    Ok(map)
}

/// Whether a pinned map has the definition of the object.
fn matches(map: &MapData, wanted: &aya_obj::Map) -> Result<bool, aya::maps::MapError> {
    let info = map.info()?;
    Ok(info.map_type()? as u32 == wanted.map_type()
        && info.key_size() == wanted.key_size()
        && info.value_size() == wanted.value_size()
        && info.max_entries() == wanted.max_entries()
        && info.map_flags() == wanted.map_flags())
}

/// Replaces a 64-bit constant in the instructions that load it (BPF_LD | BPF_IMM | BPF_DW, two slots); returns the
/// number of replacements.
fn replace_constant(code: &mut [bpf_insn], from: u64, to: u64) -> usize {
    const LOAD: u8 = 0x18;
    let mut count = 0;
    for index in 0..code.len().saturating_sub(1) {
        let is_plain_load = code[index].code == LOAD && code[index].src_reg() == 0;
        if is_plain_load && code[index].imm == from as i32 && code[index + 1].imm == (from >> 32) as i32 {
            code[index].imm = to as i32;
            code[index + 1].imm = (to >> 32) as i32;
            count += 1;
        }
    }
    count
}

const fn parse_hex(text: &str) -> u64 {
    match u64::from_str_radix(text, 16) {
        Ok(number) => number,
        Err(_) => panic!("the build script writes 16 hex digits"),
    }
}
