//! Sockets in clear, as tokio reads and writes them, but in fewer steps: what is likely to work is tried first, and the
//! system is called without libc, whose calls are cancellation points in a process of several threads and cost as much
//! again.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;

/// What the two kinds of sockets have in common.
pub(super) trait Socket: AsFd {
    /// Runs `io` if the socket may be ready for it; an error of the kind `WouldBlock` says that it is not any more.
    fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    /// Waits until it may be read.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Waits until it may be written.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($kind:ty) => {
        impl Socket for $kind {
            fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, io)
            }

            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

/// Whether a read may find something. One load.
pub(super) fn seems_readable(socket: &impl Socket) -> bool {
    socket.try_io(Interest::READABLE, || Ok(())).is_ok()
}

/// Reads once. A short read says that the socket is empty for now: the next call waits without asking it.
pub(super) fn poll_read(socket: &impl Socket, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    if !coop::has_budget_remaining() {
        // Only full reads spend any: a short one is followed by a wait.
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    loop {
        let mut short = 0;
        let read = socket.try_io(Interest::READABLE, || {
            let (n, _) = recv(socket, &mut *buf, RecvFlags::empty())?;
            if 0 < n && n < buf.len() {
                short = n;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match read {
            Ok(n) => {
                if let Poll::Ready(spent) = coop::poll_proceed(cx) {
                    spent.made_progress();
                }
                return Poll::Ready(Ok(n));
            }
            Err(_) if short > 0 => return Poll::Ready(Ok(short)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_read_ready(cx))?,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Writes once, as much as the socket takes.
pub(super) fn poll_write(socket: &impl Socket, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
    let mut short = 0;
    let write = || {
        let n = send(socket, buf, SendFlags::NOSIGNAL)?;
        if 0 < n && n < buf.len() {
            short = n;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    };
    match socket.try_io(Interest::WRITABLE, write) {
        Err(_) if short > 0 => Poll::Ready(Ok(short)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            poll_write_later(socket, cx, |socket| Ok(send(socket, buf, SendFlags::NOSIGNAL)?))
        }
        written => Poll::Ready(written),
    }
}

/// As [`poll_write`], from several places in one system call.
pub(super) fn poll_write_vectored(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match socket.try_io(Interest::WRITABLE, || Ok(rustix::io::writev(socket, bufs)?)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            poll_write_later(socket, cx, |socket| Ok(rustix::io::writev(socket, bufs)?))
        }
        written => Poll::Ready(written),
    }
}

/// The socket was full: writes once it is not.
fn poll_write_later<S: Socket>(
    socket: &S,
    cx: &mut Context<'_>,
    write: impl Fn(&S) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || write(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}
