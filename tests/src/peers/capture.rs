//! What went over the switch, by the judgement of somebody who wrote none of the speakers: Wireshark's dissector.

use std::{net::IpAddr, path::PathBuf, process::Command, str::FromStr, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{lab::Lab, netns::Netns, process::Daemon, wait::eventually};

/// What [`packet`] reads, in its order.
const FIELDS: [&str; 11] = [
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "bgp.type",
    "bgp.nlri_prefix",
    "bgp.mp_reach_nlri_ipv6_prefix",
    "bgp.cap.type",
    "bgp.route_refresh.subtype",
    "bgp.notify.minor_error_cease",
    "bgp.notify.communication",
];
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
    /// What UPDATEs announce, without the lengths.
    pub announced: Vec<IpAddr>,
    /// The codes of the capabilities in an OPEN (RFC 5492).
    pub capabilities: Vec<u8>,
    /// The subtypes of ROUTE-REFRESHs (RFC 7313).
    pub refresh: Vec<u8>,
    /// The subcode of a Cease.
    pub cease: Option<u8>,
    /// Its shutdown communication.
    pub text: Option<String>,
}

impl Capture {
    pub fn start(lab: &Lab) -> Result<Capture> {
        let file = lab.dir().join("bgp.pcapng");
        // The switch has no process ids of its own, whose end would be dumpcap's: it goes with whoever started it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "dumpcap"]);
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
    /// error, is an error. `narrow` are those with whom AS numbers have two octets (RFC 6793): the dissector guesses
    /// their size from each AS_PATH, and the shortest ones of two octets it guesses wrong.
    pub fn finish(self, lab: &Lab, narrow: &[IpAddr]) -> Result<Vec<Packet>> {
        self.finish_counting(lab, narrow, &[]).map(|(packets, _)| packets)
    }

    /// The same, and how many packets each of these display filters lets pass. A filter has no spaces.
    pub fn finish_counting(
        self,
        lab: &Lab,
        narrow: &[IpAddr],
        filters: &[&str],
    ) -> Result<(Vec<Packet>, Vec<usize>)> {
        // It reads the kernel's ring a few times a second.
        thread::sleep(Duration::from_millis(600));
        let ended = self.dumpcap.terminate(Duration::from_secs(10))?;
        ensure!(ended.success(), "dumpcap ended with {ended}");
        let file = self.file.display();
        let ns = lab.switch();
        // 0x00800000 is Wireshark's "error".
        let bad = "_ws.malformed||(bgp&&_ws.expert.severity==0x00800000)";
        let with_narrow: Vec<String> = narrow
            .iter()
            .map(|address| match address {
                IpAddr::V4(address) => format!("ip.addr=={address}"),
                IpAddr::V6(address) => format!("ipv6.addr=={address}"),
            })
            .collect();
        let with_narrow = with_narrow.join("||");
        let mut readings = vec![("auto-detect", String::from("bgp"))];
        if !narrow.is_empty() {
            readings = vec![("auto-detect", format!("!({with_narrow})")), ("2", format!("({with_narrow})"))];
        }
        for (octets, among) in readings {
            let faults = tshark(ns, &format!("-o bgp.asn_len:{octets} -r {file} -Y ({bad})&&{among} -V"))?;
            ensure!(faults.trim().is_empty(), "malformed, says tshark:\n{faults}");
        }
        let fields: Vec<String> = FIELDS.iter().map(|field| format!("-e {field}")).collect();
        let lines = tshark(ns, &format!("-r {file} -Y bgp -T fields {}", fields.join(" ")))?;
        let packets = lines.lines().map(|line| packet(line).with_context(|| format!("tshark: {line:?}")));
        let passed = filters.iter().map(|filter| {
            Ok(tshark(ns, &format!("-r {file} -Y {filter} -T fields -e frame.number"))?.lines().count())
        });
        Ok((packets.collect::<Result<_>>()?, passed.collect::<Result<_>>()?))
    }
}

fn tshark(ns: &Netns, arguments: &str) -> Result<String> {
    // What the user has set for Wireshark would change what it says.
    ns.output_within(&format!("env HOME=/nonexistent tshark -n {arguments}"), DECODED)?.success()
}

fn packet(line: &str) -> Option<Packet> {
    let columns: Vec<&str> = line.split('\t').collect();
    let columns: [&str; FIELDS.len()] = columns.try_into().ok()?;
    let [v4_from, v6_from, v4_to, v6_to, messages, prefixes4, prefixes6, capabilities, refresh, cease, text] =
        columns;
    // Of each pair one is empty.
    let one = |v4: &str, v6: &str| format!("{v4}{v6}").parse().ok();
    let announced = [prefixes4, prefixes6].map(list).into_iter().collect::<Option<Vec<_>>>()?;
    Some(Packet {
        from: one(v4_from, v6_from)?,
        to: one(v4_to, v6_to)?,
        messages: list(messages).filter(|messages| !messages.is_empty())?,
        announced: announced.concat(),
        capabilities: list(capabilities)?,
        refresh: list(refresh)?,
        cease: list(cease)?.first().copied(),
        text: (!text.is_empty()).then(|| text.to_owned()),
    })
}

fn list<T: FromStr>(column: &str) -> Option<Vec<T>> {
    column.split(',').filter(|value| !value.is_empty()).map(|value| value.parse().ok()).collect()
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
        let read = packet("\tfd00::1\t\tfd00::2\t1,4\t\t\t1,65\t\t\t").unwrap();
        assert_eq!((read.from, read.to), ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()));
        assert_eq!((read.messages, read.capabilities, read.text), (vec![OPEN, KEEPALIVE], vec![1, 65], None));
        let update = packet("10.0.0.1\t\t10.0.0.2\t\t5,2,2\t10.1.0.0\tfd01::\t\t1\t\t").unwrap();
        let announced = ["10.1.0.0", "fd01::"].map(|address| address.parse().unwrap());
        assert_eq!((update.announced.as_slice(), update.refresh), (announced.as_slice(), vec![1]));
        let last = packet("10.0.0.1\t\t10.0.0.2\t\t3\t\t\t\t\t2\tback soon").unwrap();
        assert_eq!(
            (last.messages, last.cease, last.text.as_deref()),
            (vec![NOTIFICATION], Some(2), Some("back soon"))
        );
        assert_eq!(packet("10.0.0.1\t\t10.0.0.2\t\t\t\t\t\t\t\t"), None);
    }

    fn heard(message: Vec<u8>) -> Result<Vec<Packet>> {
        let mut lab = Lab::new()?;
        let listener = lab.host("listener", Ipv4Addr::new(10, 0, 0, 1), 24)?;
        let speaker = lab.host("speaker", Ipv4Addr::new(10, 0, 0, 2), 24)?;
        let capture = Capture::start(&lab)?;
        let socket = listener.run(|| TcpListener::bind("10.0.0.1:179"))?;
        speaker.run(move || TcpStream::connect("10.0.0.1:179")?.write_all(&message))?;
        socket.accept()?;
        capture.finish(&lab, &[])
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
