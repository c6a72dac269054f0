//! The files that an agent would be given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::view::ProblemView;
use sources::objects::problem::{Problem, Severity};
use sources::{ManifestSource, Options};
use transport::ca::EmbeddedCa;

use super::problems::judge;
use super::report::{Check, Finding};

/// The checks of the section "certificate authority".
pub(super) fn ca_dir(dir: &Path) -> Vec<Check> {
    vec![
        Check::new("ca-dir-private", format!("{} is for its owner alone", dir.display()), is_private(dir)),
        Check::new("ca-usable", "the CA can sign", can_sign(dir)),
    ]
}

/// A CA that is not there yet is made on first start; making it is not for a check.
fn can_sign(dir: &Path) -> Finding {
    if !dir.join("ca-key.pem").exists() || !dir.join("ca-cert.pem").exists() {
        return Finding::Fine;
    }
    match EmbeddedCa::open(dir, &"cluster.local".into(), Duration::from_secs(3600)) {
        Ok(_) => Finding::Fine,
        Err(error) => Finding::wrong(error.to_string(), ""),
    }
}

/// The checks of the section "manifests".
pub(super) fn manifests(dir: &Path) -> Vec<Check> {
    if !dir.is_dir() {
        let title = format!("{} is a directory of manifests", dir.display());
        return vec![Check::new("manifests-folder", title, Finding::wrong("there is no such directory", ""))];
    }
    let loaded = ManifestSource::load_once(dir, &Options::default());
    let objects: usize = loaded.objects.values().sum();
    let problems: Vec<ProblemView> = loaded.problems.iter().map(view).collect();
    vec![Check::new(
        "manifests",
        format!("{}: {objects} objects are in effect as written", dir.display()),
        judge(&problems),
    )]
}

fn view(problem: &Problem) -> ProblemView {
    ProblemView {
        severity: match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
        .to_owned(),
        file: problem.at.file().map(|file| file.display().to_string()).unwrap_or_default(),
        line: problem.at.line(),
        object: problem.object.clone(),
        field: problem.field.clone(),
        message: problem.message.clone(),
    }
}

fn is_private(dir: &Path) -> Finding {
    let found = match fs::metadata(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return creatable(dir),
        Err(error) => return Finding::wrong(format!("{}: {error}", dir.display()), ""),
    };
    if !found.is_dir() {
        return Finding::wrong(format!("{} is not a directory", dir.display()), "");
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

/// A directory that is not there is made on first start, if its parent is.
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
    fn a_directory_and_its_keys_are_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("ca");
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
    fn a_ca_whose_key_is_another_ones_cannot_sign() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        assert_eq!(can_sign(&one), Finding::Fine, "it is made on first start");
        for dir in [&one, &other] {
            EmbeddedCa::open(dir, &"cluster.local".into(), Duration::from_secs(3600)).unwrap();
        }
        assert_eq!(can_sign(&one), Finding::Fine);
        fs::copy(other.join("ca-cert.pem"), one.join("ca-cert.pem")).unwrap();
        match can_sign(&one) {
            Finding::Wrong { what, .. } => assert!(what.contains("ca-cert.pem"), "{what}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn manifests_are_judged_by_their_worst_problem() {
        let directory = tempfile::tempdir().unwrap();
        let finding = || manifests(directory.path())[0].finding().clone();
        fs::write(directory.path().join("ns.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
            .unwrap();
        assert_eq!(finding(), Finding::Fine);
        let strange = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: a}\n";
        fs::write(directory.path().join("strange.yaml"), strange).unwrap();
        assert!(matches!(finding(), Finding::Warning { .. }), "{:?}", finding());
        fs::write(directory.path().join("broken.yaml"), "kind: [\n").unwrap();
        match finding() {
            Finding::Wrong { what, .. } => assert!(what.contains("broken.yaml"), "{what}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(manifests(&directory.path().join("none"))[0].finding(), Finding::Wrong { .. }));
    }

    #[test]
    fn a_file_is_not_a_directory_and_a_lost_parent_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file, directory.path().join("a/b")] {
            assert!(matches!(is_private(&path), Finding::Wrong { .. }), "{path:?}");
        }
    }
}
