//! A client that writes raw HTTP, as slowly or as incorrectly as a test requires.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::world::World;

/// The time between two bytes.
const DRIP_INTERVAL: Duration = Duration::from_millis(250);

/// The longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(40);

/// The response until the service closed the connection.
#[derive(Debug)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    /// Content type without parameters.
    pub(crate) content_type: String,
    pub(crate) body: String,
}

impl RawResponse {
    fn parse(bytes: &[u8]) -> Self {
        let all = String::from_utf8_lossy(bytes).into_owned();
        let (head, text) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let media = lines.find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let of_type = name.eq_ignore_ascii_case("content-type");
            of_type.then(|| value.split(';').next().unwrap_or_default().to_owned())
        });
        Self {
            status: status.unwrap_or_default(),
            content_type: media.unwrap_or_default(),
            body: text.to_owned(),
        }
    }
}

/// Opens a connection and sends these bytes.
pub(crate) async fn send_partial(world: &World, bytes: &str) -> TcpStream {
    let address = world.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the service accepts connections");
    // The service may close the connection in the middle.
    let _ = stream.write_all(bytes.as_bytes()).await;
    stream
}

/// Waits until the service has read the head of a request with `Expect: 100-continue` and requests its
/// body.
pub(crate) async fn expect_continue(stream: &mut TcpStream) {
    const CONTINUE_LINE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut line = [0; CONTINUE_LINE.len()];
    let read = timeout(CONNECTION_TIMEOUT, stream.read_exact(&mut line)).await;
    assert!(read.is_ok_and(|read| read.is_ok()), "the service does not read the head");
    assert_eq!(line, CONTINUE_LINE, "{}", String::from_utf8_lossy(&line));
}

/// Reads the response until the service closes the connection.
pub(crate) async fn read_response(mut stream: TcpStream) -> RawResponse {
    let mut bytes = Vec::new();
    let all = timeout(CONNECTION_TIMEOUT, stream.read_to_end(&mut bytes)).await;
    assert!(all.is_ok(), "the connection stays open: {:?}", RawResponse::parse(&bytes));
    RawResponse::parse(&bytes)
}

/// Like [`read_response`], while the client sends another byte every [`DRIP_INTERVAL`].
pub(crate) async fn drip_until_response(stream: TcpStream) -> RawResponse {
    let (mut read, mut write) = stream.into_split();
    let mut bytes = Vec::new();
    let drops = async {
        while write.write_all(b"x").await.is_ok() {
            sleep(DRIP_INTERVAL).await;
        }
        std::future::pending::<()>().await;
    };
    let all = timeout(CONNECTION_TIMEOUT, async {
        tokio::select! {
            _ = read.read_to_end(&mut bytes) => {}
            () = drops => {}
        }
    })
    .await;
    assert!(all.is_ok(), "the connection stays open: {:?}", RawResponse::parse(&bytes));
    RawResponse::parse(&bytes)
}
