//! Pure. Values of the maps.

/// The one value of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Ids of the cgroups of this agent and of the one before it, which may still be draining; 0 for none.
    pub agents: [u64; 2],
    /// See [`config_flag`](crate::config_flag).
    pub flags: u32,
    /// [`VERSION`](crate::VERSION) of whoever wrote it.
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
    /// Which entries of `VERDICTS` count; a change of all of them is one write here.
    pub generation: u32,
    /// [`Verdict`] on plaintext to every port that is not in `VERDICTS`.
    pub verdict: u32,
}

/// What happens to a plaintext connection to a pod.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Straight to the application.
    Pass = 0,
    /// Refused with a reset.
    Refuse = 1,
    /// To the agent's plaintext listener.
    Proxy = 2,
}

impl Verdict {
    /// Reads a map value; what is unknown is refused.
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
    /// 0 while the connection is being made; 1 once it is open, when the entry proves nothing any more.
    pub open: u64,
}

/// Value of `PLACES`, by netns cookie: what an agent must know about a pod that an earlier agent enrolled. The programs never
/// look at it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Id of the pod.
    pub id: u32,
    /// Which sysctls capture has changed, see `agent::capture`.
    pub sysctls: u32,
    /// Inode of the network namespace, which finds it if the path is gone.
    pub inode: u64,
    /// Fingerprint of the object that the attached program is from.
    pub object: u64,
    /// Path of the network namespace, padded with zeros.
    pub path: [u8; 216],
    /// Whose namespace it is, as a digest of the workload's name; zeros when nobody has said so. The end of what once was the path:
    /// there an agent that knows no owners finds, and leaves, zeros.
    pub owner: [u8; 16],
}
