//! The sockets that clients connect to.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// The port numbers in the names of unix sockets: what libpq looks for by default, and our own.
const NUMBERS: [u16; 2] = [5432, 6432];

/// How many clients may wait to be accepted; the system may allow less.
const BACKLOG: i32 = 4096;

/// Why a socket can't be had.
#[derive(Debug, Error)]
pub enum BindError {
    /// The TCP address.
    #[error("cannot listen on {0}: {1}")]
    Tcp(SocketAddr, io::Error),
    /// A unix socket.
    #[error("cannot listen on {}: {}", _0.display(), _1)]
    Unix(PathBuf, io::Error),
}

/// Bound sockets. Dropped, they are closed and the unix sockets' files removed.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<Bound>,
    files: Vec<File>,
}

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// A listener that belongs to one runtime.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// A unix socket.
    Unix(tokio::net::UnixListener),
}

/// A unix socket's file: removed when dropped if it is still ours.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for File {
    fn drop(&mut self) {
        let ours = |meta: std::fs::Metadata| (meta.dev(), meta.ino()) == (self.device, self.inode);
        if std::fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // If it can't be removed, whoever binds it next replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Sockets {
    /// Nothing yet.
    pub fn new() -> Sockets {
        Sockets { listeners: Vec::new(), files: Vec::new() }
    }

    /// Listens on a TCP address.
    ///
    /// # Errors
    /// When the address can't be had.
    pub fn bind_tcp(&mut self, address: SocketAddr) -> Result<(), BindError> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(std::net::TcpListener::from(socket))
        };
        self.listeners.push(Bound::Tcp(bind().map_err(|error| BindError::Tcp(address, error))?));
        Ok(())
    }

    /// Listens on unix sockets in `directory`, which is made if it is not there: `.s.PGSQL.5432` and
    /// `.s.PGSQL.6432`. Files that a process left behind are replaced; one that somebody still listens on is not.
    ///
    /// # Errors
    /// When the directory can't be made or written, or somebody else listens there.
    pub fn bind_unix(&mut self, directory: &Path) -> Result<(), BindError> {
        std::fs::create_dir_all(directory).map_err(|error| BindError::Unix(directory.to_owned(), error))?;
        for number in NUMBERS {
            let path = directory.join(format!(".s.PGSQL.{number}"));
            let (listener, file) = bind_file(&path).map_err(|error| BindError::Unix(path, error))?;
            self.listeners.push(Bound::Unix(listener));
            self.files.push(file);
        }
        Ok(())
    }

    /// Listeners for the runtime of this thread. Each call makes another set; a client comes in by any of them.
    ///
    /// # Errors
    /// When the system is out of file descriptors.
    pub fn listeners(&self) -> io::Result<Vec<Listener>> {
        let share = |bound: &Bound| {
            Ok(match bound {
                Bound::Tcp(tcp) => Listener::Tcp(tokio::net::TcpListener::from_std(tcp.try_clone()?)?),
                Bound::Unix(unix) => Listener::Unix(tokio::net::UnixListener::from_std(unix.try_clone()?)?),
            })
        };
        self.listeners.iter().map(share).collect()
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Sockets::new()
    }
}

/// Listens on a unix socket at `path`. A file that a process left behind is replaced.
///
/// # Errors
/// When the file can't be made, or somebody else listens there.
pub fn bind_file(path: &Path) -> io::Result<(UnixListener, File)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    // As PostgreSQL's: who may connect is decided by the directory, and by authentication.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    let meta = std::fs::symlink_metadata(path)?;
    Ok((listener, File { path: path.to_owned(), device: meta.dev(), inode: meta.ino() }))
}

/// Removes a socket on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn unix_sockets_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("made/if/missing");
        let mut sockets = Sockets::new();
        sockets.bind_unix(&inside).unwrap();
        assert_eq!(names(&inside), [".s.PGSQL.5432", ".s.PGSQL.6432"]);
        let mode = std::fs::metadata(inside.join(".s.PGSQL.5432")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
        drop(sockets);
        assert!(names(&inside).is_empty());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        // A listener that is closed leaves its file, as a killed process does.
        drop(UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap());
        let mut sockets = Sockets::new();
        sockets.bind_unix(dir.path()).unwrap();
        UnixStream::connect(dir.path().join(".s.PGSQL.5432")).unwrap();
    }

    #[test]
    fn what_others_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".s.PGSQL.6432");
        let other = UnixListener::bind(&path).unwrap();
        let mut sockets = Sockets::new();
        let error = sockets.bind_unix(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("/.s.PGSQL.6432: another process listens there"), "{error}");
        drop(sockets);
        assert_eq!(names(dir.path()), [".s.PGSQL.6432"], "ours is gone, theirs is not");
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let error = Sockets::new().bind_unix(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("there is a file that is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(Sockets::new().bind_unix(&path).is_err());
    }

    #[test]
    fn a_successors_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Sockets::new();
        first.bind_unix(dir.path()).unwrap();
        for name in names(dir.path()) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        let mut second = Sockets::new();
        second.bind_unix(dir.path()).unwrap();
        drop(first);
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[tokio::test]
    async fn tcp_for_several_runtimes() {
        let mut sockets = Sockets::new();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        let error = sockets.bind_tcp(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
        drop(free);
        sockets.bind_tcp(address).unwrap();
        assert_eq!((sockets.listeners().unwrap().len(), sockets.listeners().unwrap().len()), (1, 1));
        std::net::TcpStream::connect(address).unwrap();
    }
}
