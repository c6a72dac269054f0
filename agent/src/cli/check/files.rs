//! The files that an agent would be given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::report::{Check, Finding};

/// The checks of the section "certificate authority".
pub(super) fn ca_dir(dir: &Path) -> Vec<Check> {
    vec![Check::new("ca-dir-private", format!("{} is for its owner alone", dir.display()), is_private(dir))]
}

fn is_private(dir: &Path) -> Finding {
    let found = match fs::metadata(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return creatable(dir),
        Err(error) => return Finding::wrong(format!("{}: {error}", dir.display()), ""),
    };
    if !found.is_dir() {
        return Finding::wrong(format!("{} is not a folder", dir.display()), "");
    }
    let open = others_may(dir, found.permissions().mode());
    let keys = fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| {
        entry.path().extension().is_some_and(|extension| extension == "key")
            || entry.file_name().to_string_lossy().ends_with("-key.pem")
    });
    let open_keys = keys.filter_map(|entry| {
        let mode = entry.metadata().ok()?.permissions().mode();
        others_may(&entry.path(), mode)
    });
    let wrong: Vec<_> = open.into_iter().chain(open_keys).collect();
    if wrong.is_empty() {
        return Finding::Fine;
    }
    Finding::wrong(wrong.join("\n"), format!("chmod -R go= {}", dir.display()))
}

/// A folder that is not there is made on first start, if its parent is.
fn creatable(dir: &Path) -> Finding {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() || parent.is_dir() => Finding::Fine,
        _ => Finding::wrong(format!("{} does not exist, nor does its parent", dir.display()), "mkdir -p"),
    }
}

fn others_may(path: &Path, mode: u32) -> Option<String> {
    (mode & 0o077 != 0).then(|| format!("{} has mode {:04o}: others may use it", path.display(), mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_and_its_keys_are_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        assert_eq!(is_private(&dir), Finding::Fine, "it can be made");
        fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o700);
        fs::write(dir.join("ca-key.pem"), "").unwrap();
        set_mode(&dir.join("ca-key.pem"), 0o600);
        fs::write(dir.join("root-cert.pem"), "").unwrap();
        set_mode(&dir.join("root-cert.pem"), 0o644);
        assert_eq!(is_private(&dir), Finding::Fine);

        set_mode(&dir.join("ca-key.pem"), 0o640);
        set_mode(&dir, 0o755);
        match is_private(&dir) {
            Finding::Wrong { what, hint } => {
                let lines: Vec<_> = what.lines().collect();
                assert!(lines[0].ends_with("/ca has mode 0755: others may use it"), "{what}");
                assert!(lines[1].ends_with("/ca-key.pem has mode 0640: others may use it"), "{what}");
                assert!(hint.starts_with("chmod -R go= "), "{hint}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_not_a_folder_and_a_lost_parent_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file, folder.path().join("a/b")] {
            assert!(matches!(is_private(&path), Finding::Wrong { .. }), "{path:?}");
        }
    }
}
