//! The wire between one process and the API server, to be cut: the node is everybody's, and its API server stays up.
//!
//! Bytes go through as they are, TLS included: the server's certificate names 127.0.0.1, where this listens.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::space::Space;

/// A wire; it goes with its owner.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Whether anything goes through.
    whole: watch::Sender<bool>,
    kubeconfig: PathBuf,
    task: JoinHandle<()>,
}

impl Wire {
    /// A wire for somebody with this kubeconfig.
    pub(crate) async fn new(space: &Space, kubeconfig: &Path) -> Self {
        let text = fs::read(kubeconfig).expect("it was just written");
        let mut config: Value = serde_json::from_slice(&text).expect("the tests write JSON");
        let server = &mut config["clusters"][0]["cluster"]["server"];
        let address = server.as_str().and_then(|url| url.strip_prefix("https://"));
        let to: SocketAddr = address.expect("a URL").parse().expect("the node's address is a number");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let here = listener.local_addr().expect("it listens");
        *server = Value::from(format!("https://{here}"));
        let file = space
            .node
            .run_folder()
            .join(format!("{}-wire-{}.kubeconfig", space.name, here.port()));
        fs::write(&file, config.to_string()).expect("the node's folder is there");
        let (whole, state) = watch::channel(true);
        Self {
            whole,
            kubeconfig: file,
            task: tokio::spawn(carry(listener, to, state)),
        }
    }

    /// What to start somebody with who is on this wire.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on nothing goes through: what was open is closed, what is opened is closed at once.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// From now on everything goes through again.
    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
        // Litter, and no danger.
        let _ = fs::remove_file(&self.kubeconfig);
    }
}

async fn carry(listener: TcpListener, to: SocketAddr, state: watch::Receiver<bool>) {
    while let Ok((mut here, _)) = listener.accept().await {
        let mut state = state.clone();
        if !*state.borrow_and_update() {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut there) = TcpStream::connect(to).await else {
                return;
            };
            tokio::select! {
                // Either side has closed it.
                _ = copy_bidirectional(&mut here, &mut there) => {}
                _ = state.wait_for(|whole| !whole) => {}
            }
        });
    }
}
