//! Real traffic, recorded once and sent again at both nodes.

use std::{fs, path::PathBuf};

use crate::{
    compare,
    kinds::{self, Kind},
    lab::Lab,
    model::INTERFACES,
    packets::{Sent, checksum},
    record,
    tables::Table,
    wire::Offload,
};

/// Few, as each has to be in the order of its flow.
const BATCH: usize = 16;

#[test]
fn recorded_traffic_leaves_both_nodes_alike() {
    if std::env::var_os("MANX_RECORD").is_some() {
        fs::write(recording(), record::record()).expect("the tree may be written");
    }
    let traffic = recorded();
    let several = traffic.iter().filter(|sent| sent.offload.is_several()).count();
    assert!(traffic.len() > 200 && several > 5, "{} frames, {several} of several packets", traffic.len());
    let mut lab = Lab::new();
    lab.set_table(Table::plain(), [true; 4]);
    let before = lab.counters();
    replay(&mut lab, &traffic);
    let counted = crate::lab::counted(&before, &lab.counters());
    println!("{} frames; verdicts with the markers: {counted:?}", traffic.len());
}

pub fn replay(lab: &mut Lab, traffic: &[Sent]) {
    let mut rest = traffic;
    while let Some(first) = rest.first() {
        let kind = kinds::kind(first, &lab.table);
        let same = |sent: &&Sent| kinds::kind(sent, &lab.table) == kind;
        let length = rest.iter().take(BATCH).take_while(same).count();
        let (batch, others) = rest.split_at(length);
        assert_eq!(kind, Kind::Plain, "what real hosts send is neither forged nor for nobody: {batch:02x?}");
        compare::check(lab, kind, batch, "recorded traffic");
        rest = others;
    }
}

/// What is sent.
pub fn recorded() -> Vec<Sent> {
    read(&fs::read(recording()).expect("it is in the tree"))
}

fn recording() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/twin/traffic.pcap")
}

/// A classic pcap file of Ethernet frames in this machine's byte order, as [`record::write`] makes it. By whose MAC
/// a frame was sent says by which interface the node got it.
fn read(file: &[u8]) -> Vec<Sent> {
    let mut rest = file.strip_prefix(&record::header()[..]).expect("a recording of ours");
    let mut traffic = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().expect("four octets")) as usize;
        let (frame, after) = after.split_at_checked(length).expect("it is whole");
        let interface = INTERFACES.iter().position(|interface| interface.far_mac == frame[6..12]);
        let interface = interface.expect("a far end's");
        traffic.push(Sent { interface, offload: offload(frame), frame: frame.to_vec() });
        rest = after;
    }
    traffic
}

/// What the recording does not say: a checksum that is only the pseudo header's was still to be worked out, and TCP
/// that is larger than the MTU was several packets in one.
fn offload(frame: &[u8]) -> Offload {
    let (v4, protocol, addresses, transport) = match frame[12..14] {
        [0x08, 0x00] if frame[20] & 0x3f == 0 && frame[21] == 0 => {
            (true, frame[23], &frame[26..34], 14 + usize::from(frame[14] & 15) * 4)
        }
        [0x86, 0xdd] => (false, frame[20], &frame[22..54], 54),
        _ => return Offload::default(),
    };
    let place = match protocol {
        6 => 16,
        17 => 6,
        _ => return Offload::default(),
    };
    let length = ((frame.len() - transport) as u32).to_be_bytes();
    let pseudo = [addresses, &length, &[0, 0, 0, protocol]].concat();
    if frame[transport + place..transport + place + 2] != (!checksum(&pseudo)).to_be_bytes() {
        return Offload::default();
    }
    if protocol == 17 {
        return Offload::udp(transport);
    }
    let headers = transport - 14 + usize::from(frame[transport + 12] >> 4) * 4;
    let size = if frame.len() > 14 + 1500 { 1500 - headers } else { 0 };
    Offload::tcp(v4, transport, size as u16, frame[transport + 13] & 0x80 != 0)
}
