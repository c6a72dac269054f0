//! Removes everything that capture leaves on a machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_abi::{Config, Place};
use aya::maps::{Array, HashMap, Map, MapData};

use super::cgroup::Hierarchy;
use super::error::CaptureError;
use super::handle::{Capture, Pins};
use super::network;
use super::pods;

/// Depth below the cgroup2 root to which agents' groups are searched.
const DEPTH: usize = 5;

impl Capture {
    /// Removes every pin below `bpf_root` and with it every program, the rules, routes and sysctls of existing pods,
    /// and the cgroups of stopped agents. Returns one line per removed object. Enrolled pods are ordinary pods
    /// afterwards.
    pub fn cleanup(bpf_root: &Path) -> Result<Vec<String>, CaptureError> {
        let mut removed = Vec::new();
        let pins = Pins::new(bpf_root);
        let groups = read_agents(&pins.maps.join("CONFIG"));
        let places = read_places(&pins.maps.join("PLACES"));
        let versions = subdirectories(bpf_root);
        // Outbound first: connections from here on go directly to the network.
        for version in &versions {
            for kind in ["links", "pods"] {
                remove_files(&version.join(kind), "detached", &mut removed)?;
            }
        }
        for (cookie, place) in places {
            let Some(netns) = pods::find(cookie, &place) else { continue };
            let undone = network::dismantle(&netns).and_then(|()| network::restore_sysctls(&netns, place.sysctls));
            match undone {
                Ok(()) => removed.push(format!("removed rule and route in {}", netns.path().display())),
                Err(error) => {
                    removed.push(format!("could not remove rule and route in {}: {error}", netns.path().display()))
                }
            }
        }
        for version in &versions {
            remove_files(&version.join("maps"), "removed map", &mut removed)?;
            for directory in ["links", "pods", "maps", ""] {
                remove_directory(&version.join(directory))?;
            }
        }
        if bpf_root.exists() {
            remove_directory(bpf_root)?;
            removed.push(format!("removed {}", bpf_root.display()));
        }
        remove_groups(&groups, &mut removed)?;
        Ok(removed)
    }
}

fn read_agents(pin: &Path) -> Vec<u64> {
    let read = || {
        let map = Map::from_map_data(MapData::from_pin(pin).ok()?).ok()?;
        let config: Array<MapData, Config> = map.try_into().ok()?;
        config.get(&0, 0).ok()
    };
    read().map_or(Vec::new(), |config| config.agents.into_iter().filter(|id| *id != 0).collect())
}

fn read_places(pin: &Path) -> Vec<(u64, Place)> {
    let read = || {
        let map = Map::from_map_data(MapData::from_pin(pin).ok()?).ok()?;
        let places: HashMap<MapData, u64, Place> = map.try_into().ok()?;
        Some(places.iter().flatten().collect())
    };
    read().unwrap_or_default()
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn remove_files(directory: &Path, verb: &str, removed: &mut Vec<String>) -> Result<(), CaptureError> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        fs::remove_file(&path).map_err(CaptureError::file(&path))?;
        removed.push(format!("{verb} {}", path.display()));
    }
    Ok(())
}

fn remove_directory(directory: &Path) -> Result<(), CaptureError> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir(directory).map_err(CaptureError::file(directory))
}

/// Removes the groups of stopped agents.
fn remove_groups(ids: &[u64], removed: &mut Vec<String>) -> Result<(), CaptureError> {
    let Some(hierarchy) = Hierarchy::find()? else { return Ok(()) };
    let mut level = vec![hierarchy.root];
    for _ in 0..DEPTH {
        level = level.iter().flat_map(|directory| subdirectories(directory)).collect();
        for group in &level {
            let is_agents = fs::metadata(group).is_ok_and(|meta| ids.contains(&meta.ino()));
            // Fails for a group with processes: that agent still runs.
            if is_agents && fs::remove_dir(group).is_ok() {
                removed.push(format!("removed cgroup {}", group.display()));
            }
        }
    }
    Ok(())
}
