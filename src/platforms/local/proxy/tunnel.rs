//! After `101 Switching Protocols`: bytes both ways until either side has had enough. WebSocket and every other
//! HTTP/1.1 upgrade look the same from here. A tunnel is in flight for its revision until it ends, has no time limit,
//! and is cut when the proxy stops and the grace is over.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::Shared;
use super::body::Lease;
use super::connection::Busy;
use super::counters::Flight;
use super::stop::Phase;

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
    let (Ok(client), Some((mut backend, early))) = tokio::join!(client, h1.into_socket()) else {
        return;
    };
    let mut client = TokioIo::new(client);
    // Either side breaking off is how most tunnels end.
    if client.write_all(&early).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut backend).await;
    }
}
