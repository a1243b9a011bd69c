//! One type for every socket: both sides, TLS or not.
//!
//! No variant holds a buffer of its own while it idles (rustls keeps only what a record still lacks), so a
//! connection that waits costs its socket and nothing else.

mod plain;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connected socket. TLS runs over TCP only, as in PostgreSQL.
pub enum Stream {
    /// TCP in clear.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS in which we are the client: a connection to a server.
    ServerTls(Box<client::TlsStream<TcpStream>>),
    /// TLS in which we are the server: a connection from a client.
    ClientTls(Box<server::TlsStream<TcpStream>>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Tcp(_) => "Stream::Tcp",
            Stream::Unix(_) => "Stream::Unix",
            Stream::ServerTls(_) => "Stream::ServerTls",
            Stream::ClientTls(_) => "Stream::ClientTls",
        })
    }
}

/// Does the same with whichever stream it is.
macro_rules! each {
    ($stream:expr, $inner:ident => $what:expr) => {
        match $stream {
            Stream::Tcp($inner) => $what,
            Stream::Unix($inner) => $what,
            Stream::ServerTls($inner) => $what,
            Stream::ClientTls($inner) => $what,
        }
    };
}

impl Stream {
    /// Whether what is written is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::ServerTls(_) | Stream::ClientTls(_))
    }

    /// Ready when a read may find something: bytes, the end or an error. It makes no system call and needs no
    /// buffer, so this is how an idle connection waits. It may be wrong (a TLS record that carries no data):
    /// the read then says `Pending`.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(tcp) => tcp.poll_read_ready(cx),
            Stream::Unix(unix) => unix.poll_read_ready(cx),
            Stream::ServerTls(tls) => {
                let (tcp, session) = tls.get_mut();
                if has_plaintext(session.reader()) { Poll::Ready(Ok(())) } else { tcp.poll_read_ready(cx) }
            }
            Stream::ClientTls(tls) => {
                let (tcp, session) = tls.get_mut();
                if has_plaintext(session.reader()) { Poll::Ready(Ok(())) } else { tcp.poll_read_ready(cx) }
            }
        }
    }

    /// Whether a read may find something, as [`Stream::poll_readable`] says it, for somebody who does not wait.
    pub fn seems_readable(&mut self) -> bool {
        match self {
            Stream::Tcp(tcp) => plain::seems_readable(tcp),
            Stream::Unix(unix) => plain::seems_readable(unix),
            Stream::ServerTls(tls) => {
                let (tcp, session) = tls.get_mut();
                has_plaintext(session.reader()) || plain::seems_readable(tcp)
            }
            Stream::ClientTls(tls) => {
                let (tcp, session) = tls.get_mut();
                has_plaintext(session.reader()) || plain::seems_readable(tcp)
            }
        }
    }

    /// Reads into `buf`; 0 is the end. A peer that ends TLS without saying so is at its end too: a frame that it
    /// cut short is noticed by its length.
    ///
    /// A short read means "empty for now": the next call waits without a system call.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let (read, buf) = match self {
            Stream::Tcp(tcp) => return plain::poll_read(tcp, cx, buf),
            Stream::Unix(unix) => return plain::poll_read(unix, cx, buf),
            Stream::ServerTls(tls) => {
                let mut buf = ReadBuf::new(buf);
                (Pin::new(tls).poll_read(cx, &mut buf), buf)
            }
            Stream::ClientTls(tls) => {
                let mut buf = ReadBuf::new(buf);
                (Pin::new(tls).poll_read(cx, &mut buf), buf)
            }
        };
        match ready!(read) {
            Ok(()) => Poll::Ready(Ok(buf.filled().len())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes some of `buf`. Under TLS it may lie encrypted in memory afterwards: [`Stream::poll_flush`].
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(tcp) => plain::poll_write(tcp, cx, buf),
            Stream::Unix(unix) => plain::poll_write(unix, cx, buf),
            Stream::ServerTls(tls) => Pin::new(tls).poll_write(cx, buf),
            Stream::ClientTls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    /// Writes some of `bufs` in one system call.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(tcp) => plain::poll_write_vectored(tcp, cx, bufs),
            Stream::Unix(unix) => plain::poll_write_vectored(unix, cx, bufs),
            Stream::ServerTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Stream::ClientTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    /// Ready when nothing that was written waits in memory; without TLS nothing ever does.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    /// Says that nothing more will be written (close_notify, then FIN).
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

/// Whether rustls holds something for the reader: decrypted bytes, the end, or an error.
fn has_plaintext(reader: rustls::Reader<'_>) -> bool {
    !matches!(reader.into_first_chunk(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = ready!(self.get_mut().poll_read(cx, buf.initialize_unfilled()))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_shutdown(cx)
    }
}
