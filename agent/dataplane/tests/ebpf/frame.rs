//! Frames as the vectors write them: a plain one, and what is different about this one. Lengths and checksums are
//! worked out when the bytes are asked for, unless the vector set them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

#[derive(Clone, Debug)]
pub struct Frame {
    destination_mac: Mac,
    source_mac: Mac,
    /// Between the MACs and the EtherType.
    tag: Option<u16>,
    ethertype: Option<u16>,
    from: IpAddr,
    to: IpAddr,
    version: Option<u8>,
    traffic_class: u8,
    hops: u8,
    /// Protocol or next header.
    protocol: u8,
    length: Option<u16>,
    checksum: Option<u16>,
    ihl: Option<u8>,
    identification: u16,
    fragment: u16,
    options: Vec<u8>,
    payload: usize,
    /// Instead of a payload of no meaning.
    body: Option<Vec<u8>>,
    /// Instead of a packet: whatever stands behind the EtherType.
    raw: Option<Vec<u8>>,
    padding: usize,
    cut: Option<usize>,
}

/// A UDP packet of 64 octets of payload with 64 hops to go.
pub fn udp(from: &str, to: &str) -> Frame {
    Frame {
        destination_mac: [0; 6],
        source_mac: [0x02, 0, 0, 0, 0, 0x99],
        tag: None,
        ethertype: None,
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        version: None,
        traffic_class: 0,
        hops: 64,
        protocol: 17,
        length: None,
        checksum: None,
        ihl: None,
        identification: 0x1234,
        fragment: 0x4000,
        options: Vec::new(),
        payload: 64,
        body: None,
        raw: None,
        padding: 0,
        cut: None,
    }
}

/// ARP for IPv4 over Ethernet: `operation` 1 asks, 2 answers.
pub fn arp(operation: u8, sender: Mac, from: &str, about: &str) -> Frame {
    let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(sender);
    packet.extend(octets(from));
    packet.extend([0; 6]);
    packet.extend(octets(about));
    Frame { raw: Some(packet), ..udp(from, about) }.ethertype(0x0806)
}

/// A neighbour discovery message of this type about `target`.
pub fn discovery(kind: u8, from: &str, to: &str, target: &str) -> Frame {
    let target = target.parse::<Ipv6Addr>().unwrap().octets();
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
    udp(from, to).protocol(58).hops(255).body(&message)
}

impl Frame {
    /// Destination and source of the Ethernet header.
    pub fn macs(mut self, destination: Mac, source: Mac) -> Frame {
        (self.destination_mac, self.source_mac) = (destination, source);
        self
    }

    pub fn hops(mut self, hops: u8) -> Frame {
        self.hops = hops;
        self
    }

    /// An IEEE 802.1Q tag in the frame itself.
    pub fn tag(mut self, vlan: u16) -> Frame {
        self.tag = Some(vlan);
        self
    }

    pub fn ethertype(mut self, ethertype: u16) -> Frame {
        self.ethertype = Some(ethertype);
        self
    }

    pub fn version(mut self, version: u8) -> Frame {
        self.version = Some(version);
        self
    }

    /// DSCP and ECN.
    pub fn traffic_class(mut self, class: u8) -> Frame {
        self.traffic_class = class;
        self
    }

    pub fn protocol(mut self, protocol: u8) -> Frame {
        self.protocol = protocol;
        self
    }

    /// Total length (IPv4) or payload length (IPv6), right or wrong.
    pub fn length(mut self, length: u16) -> Frame {
        self.length = Some(length);
        self
    }

    pub fn checksum(mut self, checksum: u16) -> Frame {
        self.checksum = Some(checksum);
        self
    }

    pub fn ihl(mut self, words: u8) -> Frame {
        self.ihl = Some(words);
        self
    }

    /// The identification that gives an IPv4 header this checksum.
    pub fn identified_by_checksum(mut self, checksum: u16) -> Frame {
        let sums_up = |id: &u16| {
            let bytes = Frame { identification: *id, ..self.clone() }.bytes();
            bytes[24..26] == checksum.to_be_bytes()
        };
        self.identification = (0..=u16::MAX).find(sums_up).expect("every checksum but one can be had");
        self
    }

    /// Flags and offset of an IPv4 header as it has them.
    pub fn fragment(mut self, word: u16) -> Frame {
        self.fragment = word;
        self
    }

    /// IPv4 options, a multiple of four octets.
    pub fn options(mut self, options: &[u8]) -> Frame {
        self.options = options.to_vec();
        self
    }

    pub fn payload(mut self, octets: usize) -> Frame {
        self.payload = octets;
        self
    }

    /// What stands behind the IP header.
    pub fn body(mut self, octets: &[u8]) -> Frame {
        (self.payload, self.body) = (octets.len(), Some(octets.to_vec()));
        self
    }

    /// What stands behind the EtherType, octet for octet.
    pub fn edit_raw(mut self, edit: impl FnOnce(&mut Vec<u8>)) -> Frame {
        edit(self.raw.as_mut().expect("only of a frame that has no packet"));
        self
    }

    /// Octets of nothing after the packet, as short frames have them.
    pub fn padding(mut self, octets: usize) -> Frame {
        self.padding = octets;
        self
    }

    /// Only so many octets of the frame arrive.
    pub fn cut(mut self, octets: usize) -> Frame {
        self.cut = Some(octets);
        self
    }

    /// The frame as it is after one hop, with these MACs: what a router sends on.
    pub fn forwarded(mut self, destination: Mac, source: Mac) -> Frame {
        self.hops -= 1;
        self.macs(destination, source)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = [self.destination_mac, self.source_mac].concat();
        if let Some(vlan) = self.tag {
            out.extend(0x8100u16.to_be_bytes());
            out.extend(vlan.to_be_bytes());
        }
        if let Some(raw) = &self.raw {
            out.extend(self.ethertype.expect("it says what it is").to_be_bytes());
            out.extend(raw);
            out.truncate(self.cut.unwrap_or(out.len()));
            return out;
        }
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend(self.ethertype.unwrap_or(0x0800).to_be_bytes());
                self.ipv4(&mut out, from, to);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out.extend(self.ethertype.unwrap_or(0x86dd).to_be_bytes());
                self.ipv6(&mut out, from, to);
            }
            _ => panic!("a packet has addresses of one family"),
        }
        match &self.body {
            Some(body) => out.extend(body),
            None => out.extend((0..self.payload).map(|octet| octet as u8)),
        }
        out.extend(vec![0; self.padding]);
        out.truncate(self.cut.unwrap_or(out.len()));
        out
    }

    fn ipv4(&self, out: &mut Vec<u8>, from: Ipv4Addr, to: Ipv4Addr) {
        let words = 5 + self.options.len() / 4;
        let length = self.length.unwrap_or((words * 4 + self.payload) as u16);
        let first = self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(words as u8);
        let mut header = vec![first, self.traffic_class];
        header.extend(length.to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.hops, self.protocol, 0, 0]);
        header.extend(from.octets());
        header.extend(to.octets());
        header.extend(&self.options);
        let checksum = self.checksum.unwrap_or_else(|| internet_checksum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        out.extend(header);
    }

    fn ipv6(&self, out: &mut Vec<u8>, from: Ipv6Addr, to: Ipv6Addr) {
        let class = self.traffic_class;
        out.extend([self.version.unwrap_or(6) << 4 | class >> 4, class << 4, 0, 7]);
        out.extend(self.length.unwrap_or(self.payload as u16).to_be_bytes());
        out.extend([self.protocol, self.hops]);
        out.extend(from.octets());
        out.extend(to.octets());
    }
}

/// RFC 1071, in full: what the programs work out by difference is compared with this.
fn internet_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
