//! Letting clients in, one task each.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::sockets::Listener;
use super::{Door, Front, Login, login};
use crate::pg::stream::Stream;

/// How long nobody is accepted after the system had no file descriptor or memory for one: it would say so again at
/// once, and again.
const PAUSE: Duration = Duration::from_millis(100);

/// Time between TCP's questions to a silent client, and how many go unanswered before it counts as gone.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Accepts clients until `stop`. Each gets a task of this runtime: it logs in, then `serve` has it.
pub async fn accept<F, S, R>(listener: Listener, door: Arc<Door>, front: Arc<F>, stop: CancellationToken, serve: S)
where
    F: Front,
    S: Fn(F::Database, Login) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let each = async {
        loop {
            door.room().await;
            match next(&listener, &door).await {
                Ok((stream, peer)) => {
                    let place = door.enter();
                    // In a box of its own: what a login needs is gone when the client is served.
                    let login = Box::pin(login::login(stream, peer, Arc::clone(&front), place));
                    let serve = serve.clone();
                    tokio::spawn(async move {
                        if let Some((database, login, _place)) = login.await {
                            serve(database, login).await;
                        }
                    });
                }
                Err(error) if is_about_one(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept clients");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = each => {}
        () = stop.cancelled() => {}
    }
}

/// The next connection, and where it comes from.
async fn next(listener: &Listener, door: &Door) -> io::Result<(Stream, String)> {
    match listener {
        Listener::Tcp(tcp) => {
            let (stream, peer) = tcp.accept().await?;
            prepare(&stream, door.rules().keepalive);
            Ok((Stream::Tcp(stream), peer.to_string()))
        }
        Listener::Unix(unix) => Ok((Stream::Unix(unix.accept().await?.0), "unix".to_owned())),
    }
}

/// Small packets leave at once, and a client that is gone without a word is noticed.
fn prepare(stream: &TcpStream, keepalive: Option<Duration>) {
    // Both can only fail on a socket that is dead already, which the next call will say.
    let _ = stream.set_nodelay(true);
    if let Some(time) = keepalive {
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(PROBE_EVERY).with_retries(PROBES);
        let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    }
}

/// Whether an error of accept(2) is about the connection that would have come, and not about us.
fn is_about_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
