use std::time::Duration;

use manx_bgp::{Config, Dial, Event as SpeakerEvent, Originated, Output, PeerConfig};
use manx_net::{Asn, Prefix, Prefix4};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;
use crate::clock::Clock;

const ROUTES: u32 = 200_000;

/// A speaker with many routes, and the loop around it.
struct Node {
    speaker: Speaker,
    sockets: Sockets,
    events: mpsc::Receiver<Event>,
    clock: Clock,
}

impl Node {
    fn new() -> Node {
        let mut config = Config::new(Asn::CALICO_DEFAULT, Ipv4Addr::new(10, 0, 0, 1));
        let mut peer = PeerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Asn::CALICO_DEFAULT);
        peer.dial = Dial::Never;
        config.peers.push(peer);
        config.originated = (0..ROUTES)
            .filter_map(|n| Prefix4::from_bits((16 << 24) + (n << 8), 24))
            .map(|prefix| Originated { prefix: Prefix::V4(prefix), communities: Vec::new() })
            .collect();
        let (events_in, events) = mpsc::channel(256);
        let clock = Clock::start();
        let mut sockets = Sockets::new(events_in);
        sockets.listen(&[IpAddr::V4(Ipv4Addr::LOCALHOST)], 0).unwrap();
        Node { speaker: Speaker::new(config, clock.now()), sockets, events, clock }
    }

    async fn run(mut self) {
        while let Some(event) = self.events.recv().await {
            if !self.take(event) {
                return;
            }
        }
    }

    /// False: the connection has ended.
    fn take(&mut self, event: Event) -> bool {
        let now = self.clock.now();
        match event {
            Event::Accepted { stream, local, remote } => {
                // Else the kernel may make room for the whole table.
                SockRef::from(&stream).set_send_buffer_size(64 << 10).unwrap();
                let conn = self.speaker.accept(local, remote, now).unwrap();
                self.sockets.serve(conn, stream);
            }
            Event::Received { connection, bytes } => {
                self.speaker.handle(SpeakerEvent::Received { conn: ConnId(connection), bytes }, now);
            }
            Event::Sent { connection } => self.sockets.sent(ConnId(connection)),
            Event::Closed { .. } | Event::Dialled { .. } => return false,
        }
        self.carry();
        true
    }

    fn carry(&mut self) {
        let now = self.clock.now();
        while let Some(output) = self.speaker.poll_output() {
            if let Output::Transmit { conn } = output {
                self.sockets.transmit(conn);
            }
        }
        self.sockets.flush(&mut self.speaker, now);
    }

    /// Until nothing has happened for a while.
    async fn rest(&mut self) {
        while let Ok(Some(event)) = timeout(Duration::from_millis(200), self.events.recv()).await {
            assert!(self.take(event), "the connection stands");
        }
    }

    fn updates_sent(&self) -> u64 {
        self.speaker.peers().iter().map(|peer| peer.counters.updates_sent).sum()
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// Far more than both sockets' buffers hold, so that the loop, the task and the peer's reading take turns.
#[tokio::test]
async fn a_peer_that_reads_late_gets_the_whole_table_in_order() {
    let node = Node::new();
    let address = node.sockets.listeners[0].0.socket.local_addr().unwrap();
    let node = tokio::spawn(node.run());
    let mut peer = TcpStream::connect(address).await.unwrap();
    // AS 64512, hold time 0, identifier 10.0.0.2, 4-octet AS.
    let open = [4, 0xfc, 0, 0, 0, 10, 0, 0, 2, 8, 2, 6, 65, 4, 0, 0, 0xfc, 0];
    peer.write_all(&[message(1, &open), message(4, &[])].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    let mut next = 16 << 24;
    let end = next + (ROUTES << 8);
    while next < end {
        let mut header = [0; 19];
        timeout(Duration::from_secs(20), peer.read_exact(&mut header)).await.expect("more comes").unwrap();
        assert_eq!(header[..16], [0xff; 16], "messages are whole");
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
        peer.read_exact(&mut body).await.unwrap();
        if header[18] == 2 {
            let attributes = usize::from(u16::from_be_bytes([body[2], body[3]]));
            for nlri in body[4 + attributes..].as_chunks::<4>().0 {
                assert_eq!(*nlri, [24, (next >> 24) as u8, (next >> 16) as u8, (next >> 8) as u8]);
                next += 1 << 8;
            }
        }
    }
    drop(peer);
    node.await.unwrap();
}

/// Behaviour 53, down to the socket: what is handed out cannot be replaced by newer state, so that it is little.
#[tokio::test]
async fn a_peer_that_does_not_read_is_handed_no_more_however_often_its_table_changes() {
    let mut node = Node::new();
    let address = node.sockets.listeners[0].0.socket.local_addr().unwrap();
    let peer = tokio::net::TcpSocket::new_v4().unwrap();
    peer.set_recv_buffer_size(4096).unwrap();
    let mut peer = peer.connect(address).await.unwrap();
    let open = [4, 0xfc, 0, 0, 0, 10, 0, 0, 2, 8, 2, 6, 65, 4, 0, 0, 0xfc, 0];
    peer.write_all(&[message(1, &open), message(4, &[])].concat()).await.unwrap();
    node.rest().await;
    // What both sockets' buffers hold, and a turn.
    let handed = node.updates_sent();
    let whole = u64::from(ROUTES / 1000);
    assert!((1..whole).contains(&handed), "{handed} messages of some {whole} are with the kernel");
    for community in 1..=3 {
        let mut config = node.speaker.config().clone();
        for route in &mut config.originated {
            route.communities = vec![community];
        }
        let now = node.clock.now();
        node.speaker.configure(config, now);
        while node.speaker.advance(node.clock.now()) {
            node.carry();
        }
        node.carry();
        node.rest().await;
    }
    assert_eq!(node.updates_sent(), handed);
    drop(peer);
}

#[tokio::test]
async fn whoever_dials_another_address_than_those_listened_on_is_refused() {
    let (events_in, _events) = mpsc::channel(16);
    let mut sockets = Sockets::new(events_in);
    let [one, other] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
    sockets.listen(&[IpAddr::V4(one), IpAddr::V6(Ipv6Addr::LOCALHOST)], 0).unwrap();
    let listening: Vec<SocketAddr> =
        sockets.listeners.iter().map(|(listener, _)| listener.socket.local_addr().unwrap()).collect();
    assert_eq!(listening.len(), 2);
    for address in &listening {
        TcpStream::connect(address).await.unwrap();
    }
    let port = listening[0].port();
    assert!(TcpStream::connect((other, port)).await.is_err());
    // The node's address has changed.
    sockets.listen(&[IpAddr::V4(other)], port).unwrap();
    TcpStream::connect((other, port)).await.unwrap();
    // Until the former task has let go of its socket a connection may still come up.
    timeout(Duration::from_secs(5), async {
        while TcpStream::connect((one, port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the address listened on before is closed");
}
