//! A proxy between the service and its database that a story can interrupt.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The traffic that the proxy forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProxyMode {
    /// All traffic.
    Forward,
    /// No traffic: open and new connections are closed.
    Closed,
    /// No traffic, while connections stay open.
    Frozen,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: ProxyMode,
    /// Number of disconnects. A disconnect closes connections even if the proxy is restored at once.
    disconnects: u32,
    /// Number of stalls. Older connections stay silent forever.
    stalls: u32,
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let wire = Arc::new(watch::Sender::new(State {
            mode: ProxyMode::Forward,
            disconnects: 0,
            stalls: 0,
        }));
        let connection_state = wire.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target.clone(), connection_state.subscribe()));
            }
        });
        Self { port, state: wire }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn disconnect(&self) {
        self.state.send_modify(|state| {
            (state.mode, state.disconnects) = (ProxyMode::Closed, state.disconnects + 1)
        });
    }

    pub(crate) fn freeze(&self) {
        self.state.send_modify(|state| state.mode = ProxyMode::Frozen);
    }

    /// Silences all current connections forever; new connections work.
    pub(crate) fn stall_connections(&self) {
        self.state.send_modify(|state| state.stalls += 1);
    }

    pub(crate) fn restore(&self) {
        self.state.send_modify(|state| state.mode = ProxyMode::Forward);
    }
}

/// Forwards bytes both ways while the mode allows it.
async fn forward(mut client: TcpStream, target: String, mut wire: watch::Receiver<State>) {
    let initial = *wire.borrow_and_update();
    if initial.mode == ProxyMode::Closed {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    loop {
        let state = *wire.borrow_and_update();
        match state.mode {
            _ if state.disconnects != initial.disconnects => return,
            _ if state.stalls != initial.stalls => std::future::pending().await,
            ProxyMode::Closed => return,
            ProxyMode::Frozen => {
                if wire.changed().await.is_err() {
                    return;
                }
            }
            ProxyMode::Forward => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = wire.changed() => if changed.is_err() { return },
            },
        }
    }
}
