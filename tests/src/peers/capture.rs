//! What went over the switch, by the judgement of somebody who wrote none of the speakers: Wireshark's dissector.

use std::{net::IpAddr, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{lab::Lab, netns::Netns, process::Daemon, wait::eventually};

const STARTED: Duration = Duration::from_secs(10);
const DECODED: Duration = Duration::from_secs(60);

/// Message types (RFC 4271 §4.1, RFC 2918).
pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;
pub const NOTIFICATION: u8 = 3;
pub const KEEPALIVE: u8 = 4;
pub const ROUTE_REFRESH: u8 = 5;

/// Writes down every packet of BGP on a lab's switch.
#[derive(Debug)]
pub struct Capture {
    dumpcap: Daemon,
    file: PathBuf,
}

/// The BGP messages that ended in one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    /// Types, in the order of the messages.
    pub messages: Vec<u8>,
    /// The shutdown communication of a NOTIFICATION.
    pub text: Option<String>,
}

impl Capture {
    pub fn start(lab: &Lab) -> Result<Capture> {
        let file = lab.dir().join("bgp.pcapng");
        let mut command = Command::new("dumpcap");
        // A bridge hears what passes through it when its own interface is promiscuous.
        command.args(["-q", "-i", "br0", "-f", "tcp port 179", "-w"]).arg(&file);
        let mut dumpcap = Daemon::start(lab.switch(), "dumpcap", command, &lab.logs().join("dumpcap.log"))?;
        eventually("dumpcap captures", STARTED, || {
            dumpcap.check_running()?;
            ensure!(dumpcap.log_text()?.contains("File:"), "it has not said so");
            Ok(())
        })?;
        Ok(Capture { dumpcap, file })
    }

    /// Ends the capture and has it decoded. A message that is malformed, or that the dissector holds to be an
    /// error, is an error.
    pub fn finish(self, lab: &Lab) -> Result<Vec<Packet>> {
        // It reads the kernel's ring a few times a second.
        thread::sleep(Duration::from_millis(600));
        let ended = self.dumpcap.terminate(Duration::from_secs(10))?;
        ensure!(ended.success(), "dumpcap ended with {ended}");
        let file = self.file.display();
        let ns = lab.switch();
        // 0x00800000 is Wireshark's "error".
        let bad = "_ws.malformed||(bgp&&_ws.expert.severity==0x00800000)";
        let faults = tshark(ns, &format!("-r {file} -Y {bad} -V"))?;
        ensure!(faults.trim().is_empty(), "malformed, says tshark:\n{faults}");
        let fields = "-e ip.src -e ipv6.src -e ip.dst -e ipv6.dst -e bgp.type -e bgp.notify.communication";
        let lines = tshark(ns, &format!("-r {file} -Y bgp -T fields {fields}"))?;
        lines.lines().map(|line| packet(line).with_context(|| format!("tshark: {line:?}"))).collect()
    }
}

fn tshark(ns: &Netns, arguments: &str) -> Result<String> {
    // What the user has set for Wireshark would change what it says.
    ns.output_within(&format!("env HOME=/nonexistent tshark -n {arguments}"), DECODED)?.success()
}

fn packet(line: &str) -> Option<Packet> {
    let mut columns = line.split('\t');
    let mut address = || {
        let (v4, v6) = (columns.next()?, columns.next()?);
        if v4.is_empty() { v6.parse().ok() } else { v4.parse().ok() }
    };
    let (from, to) = (address()?, address()?);
    let messages = columns.next()?.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let text = columns.next().filter(|text| !text.is_empty()).map(str::to_owned);
    Some(Packet { from, to, messages, text })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Ipv4Addr, TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_line_of_tshark_gives_both_ends_and_the_types_in_order() {
        let read = packet("\tfd00::1\t\tfd00::2\t1,4\t").unwrap();
        assert_eq!((read.from, read.to), ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()));
        assert_eq!((read.messages, read.text), (vec![OPEN, KEEPALIVE], None));
        let last = packet("10.0.0.1\t\t10.0.0.2\t\t3\tback soon").unwrap();
        assert_eq!((last.messages, last.text.as_deref()), (vec![NOTIFICATION], Some("back soon")));
        assert_eq!(packet("10.0.0.1\t\t10.0.0.2\t\t\t"), None);
    }

    fn heard(message: Vec<u8>) -> Result<Vec<Packet>> {
        let mut lab = Lab::new()?;
        let listener = lab.host("listener", Ipv4Addr::new(10, 0, 0, 1), 24)?;
        let speaker = lab.host("speaker", Ipv4Addr::new(10, 0, 0, 2), 24)?;
        let capture = Capture::start(&lab)?;
        let socket = listener.run(|| TcpListener::bind("10.0.0.1:179"))?;
        speaker.run(move || TcpStream::connect("10.0.0.1:179")?.write_all(&message))?;
        socket.accept()?;
        capture.finish(&lab)
    }

    #[test]
    fn a_message_is_captured_and_a_malformed_one_is_not_let_pass() {
        // An UPDATE whose ORIGIN says that it is 200 octets long, in 4 octets of attributes.
        let rest: [&[u8]; 2] = [&[0, 19, KEEPALIVE], &[0, 27, UPDATE, 0, 0, 0, 4, 0x40, 1, 200, 0]];
        let [good, bad] = rest.map(|rest| [&[0xff; 16], rest].concat());
        let packets = heard(good).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].messages, [KEEPALIVE]);
        let error = heard(bad).unwrap_err().to_string();
        assert!(error.starts_with("malformed, says tshark"), "{error}");
    }
}
