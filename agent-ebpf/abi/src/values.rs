//! Pure. Values of the maps.

/// The one value of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Ids of the cgroups of this agent and of the previous one, which may still be draining; 0 for none.
    pub agents: [u64; 2],
    /// See [`config_flag`](crate::config_flag).
    pub flags: u32,
    /// [`VERSION`](crate::VERSION) of the writer.
    pub version: u32,
}

/// Value of `PODS`: an enrolled pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its id on this node, from 1.
    pub id: u32,
    /// See [`pod_flag`](crate::pod_flag).
    pub flags: u32,
    /// Selects the valid entries of `VERDICTS`, so that all of them change with one write here.
    pub generation: u32,
    /// [`Verdict`] on plaintext to every port that is not in `VERDICTS`.
    pub verdict: u32,
}

/// How a plaintext connection to a pod is treated.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Passed to the application.
    Pass = 0,
    /// Refused with a reset.
    Refuse = 1,
    /// Redirected to the agent's plaintext listener.
    Proxy = 2,
}

impl Verdict {
    /// Decodes a map value; unknown values are refused.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Pass,
            2 => Self::Proxy,
            _ => Self::Refuse,
        }
    }
}

/// Value of `ORIGIN`: a connection attempt of the kubelet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// When it began, in nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// 0 during the handshake; 1 once it is established, when the entry proves nothing any more.
    pub open: u64,
}

/// Value of `PLACES`, by netns cookie: what an agent must know about a pod that an earlier agent enrolled. The eBPF
/// programs never read it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Id of the pod.
    pub id: u32,
    /// The sysctls that capture has changed, as bits: see `agent::capture`.
    pub sysctls: u32,
    /// Inode of the network namespace, to find it if the path is gone.
    pub inode: u64,
    /// Fingerprint of the object of the attached program.
    pub object: u64,
    /// Path of the network namespace, padded with zeros.
    pub path: [u8; 216],
    /// Digest of the owning workload's name; zeros if unknown. It takes the end of what once was the path: there an
    /// agent that does not record owners finds, and leaves, zeros.
    pub owner: [u8; 16],
}
