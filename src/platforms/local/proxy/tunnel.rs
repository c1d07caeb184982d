//! After `101 Switching Protocols`: bytes both ways until either side has had enough. WebSocket and every other
//! HTTP/1.1 upgrade look the same from here. A tunnel is in flight for its revision until it ends, has no time limit
//! (but [`HALF_CLOSED`] once one side has ended), and is cut when the proxy stops and the grace is over.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::time::timeout;

use super::Shared;
use super::body::Lease;
use super::connection::Busy;
use super::counters::Flight;
use super::stop::Phase;

/// How long one direction goes on when the other has ended: for last words, and not for a peer that never hangs up,
/// or no revision with such a client would ever be drained.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// Both halves (the lease holds the backend's), and what lives as long as they do.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) lease: Lease,
    pub(super) flight: Flight,
    pub(super) busy: Busy,
}

/// Carries bytes in a task of its own; returns at once, so that the answer that agrees to it can be sent.
pub(super) fn open(shared: &Arc<Shared>, tunnel: Tunnel) {
    let stop = Arc::clone(&shared.stop);
    shared.tasks.spawn(async move {
        tokio::select! {
            () = carry(tunnel) => {}
            () = stop.reached(Phase::Cut) => {}
        }
    });
}

async fn carry(tunnel: Tunnel) {
    let Tunnel {
        client,
        mut lease,
        flight: _flight,
        busy: _busy,
    } = tunnel;
    let Some(h1) = lease.h1.take() else { return };
    let (Ok(client), Some((backend, early))) = tokio::join!(client, h1.into_socket()) else {
        return;
    };
    let (from_client, mut to_client) = split(TokioIo::new(client));
    let (from_backend, to_backend) = backend.into_split();
    if to_client.write_all(&early).await.is_err() {
        return;
    }
    let mut up = pin!(one_way(from_client, to_backend));
    let mut down = pin!(one_way(from_backend, to_client));
    // Whether the other side ends as well, or time is up: the tunnel is over.
    let _ = tokio::select! {
        () = &mut up => timeout(HALF_CLOSED, down).await,
        () = &mut down => timeout(HALF_CLOSED, up).await,
    };
}

/// Carries bytes until `from` ends, and then tells `to`. Either side breaking off is how most tunnels end.
async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _ = copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}
