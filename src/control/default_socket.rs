//! Where the admin API is when nobody said where: one answer for the server and for its clients.
//!
//! A leaf: the command line reads it to find the server, the control plane to bind. Two answers would
//! mean that `evenkeel status` cannot find the evenkeel that was started beside it.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The default admin socket of this process's user: `/run/evenkeel/admin.sock` for root, otherwise
/// `$XDG_RUNTIME_DIR/evenkeel/admin.sock`, otherwise `/tmp/evenkeel-UID/admin.sock`.
#[must_use]
pub fn path() -> PathBuf {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    path_for(rustix::process::getuid().as_raw(), runtime_dir.as_deref())
}

/// A relative `XDG_RUNTIME_DIR` is ignored, as the XDG Base Directory Specification asks for.
fn path_for(uid: u32, runtime_dir: Option<&Path>) -> PathBuf {
    if uid == 0 {
        return PathBuf::from("/run/evenkeel/admin.sock");
    }
    match runtime_dir {
        Some(dir) if dir.is_absolute() => dir.join("evenkeel/admin.sock"),
        _ => PathBuf::from(format!("/tmp/evenkeel-{uid}/admin.sock")),
    }
}

/// Makes the directory of the default socket: 0700, or 0755 for root, so that the socket's own group
/// decides who may use it.
///
/// # Errors
/// What the file system says, or that the directory is not ours: under `/tmp` anybody could have made
/// it first, and would then be able to put another socket in the place of this one.
pub fn prepare_directory(socket: &Path) -> io::Result<()> {
    let Some(directory) = socket.parent() else {
        return Ok(());
    };
    let uid = rustix::process::getuid().as_raw();
    let mode = if uid == 0 { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    trusted(directory, uid)
}

/// Whether the directory of a default socket may be believed by a client: it is ours or root's, and
/// only its owner can write to it. One that does not exist is harmless.
///
/// # Errors
/// That it belongs to somebody else or that others can write to it.
pub fn check_directory(socket: &Path) -> io::Result<()> {
    match socket.parent() {
        Some(directory) if directory.exists() => trusted(directory, rustix::process::getuid().as_raw()),
        _ => Ok(()),
    }
}

fn trusted(directory: &Path, uid: u32) -> io::Result<()> {
    let meta: Metadata = directory.symlink_metadata()?;
    let problem = if !meta.is_dir() {
        "is not a directory"
    } else if meta.uid() != uid && meta.uid() != 0 {
        "belongs to another user"
    } else if meta.mode() & 0o022 != 0 {
        "can be written to by other users"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {problem}", directory.display())))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_user_has_one_place() {
        assert_eq!(path_for(0, Some(Path::new("/run/user/0"))), Path::new("/run/evenkeel/admin.sock"));
        assert_eq!(path_for(1000, Some(Path::new("/run/user/1000"))), Path::new("/run/user/1000/evenkeel/admin.sock"));
        assert_eq!(path_for(1000, Some(Path::new("relative"))), Path::new("/tmp/evenkeel-1000/admin.sock"));
        assert_eq!(path_for(1000, None), Path::new("/tmp/evenkeel-1000/admin.sock"));
    }

    #[test]
    fn the_directory_is_made_once_and_refused_when_others_can_write_to_it() {
        let base = tempfile::tempdir().unwrap();
        let socket = base.path().join("evenkeel/admin.sock");
        check_directory(&socket).unwrap();
        prepare_directory(&socket).unwrap();
        prepare_directory(&socket).unwrap();
        check_directory(&socket).unwrap();
        let directory = base.path().join("evenkeel");
        assert_eq!(directory.metadata().unwrap().mode() & 0o022, 0);

        std::fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        let refused = prepare_directory(&socket).unwrap_err();
        assert!(refused.to_string().contains("can be written to by other users"), "{refused}");
        assert!(check_directory(&socket).is_err());
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = base.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, base.path().join("evenkeel")).unwrap();
        assert!(prepare_directory(&base.path().join("evenkeel/admin.sock")).is_err());
    }
}
