//! A wire between the service and its database that a story can cut.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// Everything.
    Whole,
    /// Nothing: connections are closed, new ones too.
    Cut,
    /// Connections stay and nothing moves.
    Frozen,
}

#[derive(Debug, Clone, Copy)]
struct State {
    wire: Wire,
    /// How often it was cut: a cut that is mended at once ends connections all the same.
    cuts: u32,
    /// How often connections were stranded: those of before say nothing ever again.
    strands: u32,
}

pub(crate) struct Proxy {
    port: u16,
    wire: Arc<watch::Sender<State>>,
}

impl Proxy {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let wire = Arc::new(watch::Sender::new(State { wire: Wire::Whole, cuts: 0, strands: 0 }));
        let watched = wire.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), watched.subscribe()));
            }
        });
        Self { port, wire }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn cut(&self) {
        self.wire.send_modify(|state| (state.wire, state.cuts) = (Wire::Cut, state.cuts + 1));
    }

    pub(crate) fn freeze(&self) {
        self.wire.send_modify(|state| state.wire = Wire::Frozen);
    }

    /// What is connected now falls silent for ever; new connections work.
    pub(crate) fn strand(&self) {
        self.wire.send_modify(|state| state.strands += 1);
    }

    pub(crate) fn mend(&self) {
        self.wire.send_modify(|state| state.wire = Wire::Whole);
    }
}

/// Carries bytes both ways while the wire is whole.
async fn carry(mut client: TcpStream, target: String, mut wire: watch::Receiver<State>) {
    let begun = *wire.borrow_and_update();
    if begun.wire == Wire::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    loop {
        let state = *wire.borrow_and_update();
        match state.wire {
            _ if state.cuts != begun.cuts => return,
            _ if state.strands != begun.strands => std::future::pending().await,
            Wire::Cut => return,
            Wire::Frozen => {
                if wire.changed().await.is_err() {
                    return;
                }
            }
            Wire::Whole => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = wire.changed() => if changed.is_err() { return },
            },
        }
    }
}
