//! What a pod may say of itself is chosen by an annotation: packets with sources that are not its own, and ARP and
//! neighbour discovery for addresses that are not, before and after.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    host::Pod,
    pair::{Pair, addresses},
    story::{counted, ping},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(10);
const ARRIVES: Duration = Duration::from_millis(500);

/// The pod that lies, and the one that hears it.
struct Scene {
    second: Pod,
    pair: Pair,
}

/// What came of one forgery each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    /// By forged source: it reached the other pod.
    arrived: [bool; 3],
    /// Packets that were dropped for their source.
    spoofed: u64,
    /// Of an ARP request and a neighbour advertisement.
    forged_neighbour: u64,
}

impl Scene {
    fn new(flags: &[&'static str]) -> Result<Scene> {
        let pair = Pair::open(flags)?;
        let second = pair.second_pod()?;
        for address in Scene::forged() {
            let how = if address.is_ipv4() { "32 dev lo" } else { "128 dev lo nodad" };
            pair.neighbour.sh(&format!("ip address add {address}/{how}"))?;
        }
        Ok(Scene { second, pair })
    }

    /// Addresses of the other node's block, to which a route leads, and one to which none does. None is this pod's.
    fn forged() -> [IpAddr; 3] {
        let [ipv4, ipv6] = addresses(50, 7);
        [ipv4, ipv6, Ipv6Addr::new(0xfd00, 0xbad, 0, 0, 0, 0, 0, 7).into()]
    }

    fn count(&self, verdict: &str) -> Result<u64> {
        Ok(counted(&self.pair.here.counters()?, "pod_tc", verdict))
    }

    fn try_all(&self) -> Result<Outcome> {
        let before = [self.count("spoofed")?, self.count("forged_neighbour")?];
        let mut arrived = [false; 3];
        let [ipv4, ipv6] = addresses(10, 2);
        for (from, arrived) in Scene::forged().into_iter().zip(&mut arrived) {
            let to = if from.is_ipv4() { ipv4 } else { ipv6 };
            let listener = self.second.run(move || UdpSocket::bind((to, 0)))?;
            listener.set_read_timeout(Some(ARRIVES))?;
            let target = listener.local_addr()?;
            let liar = self.pair.neighbour.run(move || UdpSocket::bind((from, 0)))?;
            liar.send_to(b"forged", target)?;
            let mut buffer = [0; 16];
            *arrived = listener
                .recv_from(&mut buffer)
                .is_ok_and(|(length, source)| &buffer[..length] == b"forged" && source.ip() == from);
        }
        for frame in [self.arp()?, self.advertisement()?] {
            let script = format!(
                "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
                 s.bind(('eth0', 0)); s.send(bytes.fromhex('{frame}'))\""
            );
            self.pair.neighbour.shell(&script)?.success()?;
        }
        Ok(Outcome {
            arrived,
            spoofed: self.count("spoofed")? - before[0],
            forged_neighbour: self.count("forged_neighbour")? - before[1],
        })
    }

    fn mac(&self) -> Result<String> {
        let text = self.pair.neighbour.sh("ip -br link show eth0")?;
        let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5);
        Ok(mac.with_context(|| text.clone())?.replace(':', ""))
    }

    /// "Who has 169.254.1.1? Tell the second pod's address", at the liar's MAC (RFC 826).
    fn arp(&self) -> Result<String> {
        let mac = self.mac()?;
        let [IpAddr::V4(second), _] = addresses(10, 2) else { unreachable!("the first is IPv4") };
        let asked = Ipv4Addr::new(169, 254, 1, 1);
        Ok(format!(
            "ffffffffffff{mac}0806 0001 0800 06 04 0001 {mac}{:08x} 000000000000 {:08x}",
            second.to_bits(),
            asked.to_bits()
        ))
    }

    /// "The second pod's address is at the liar's MAC", to all nodes (RFC 4861 §4.4).
    fn advertisement(&self) -> Result<String> {
        let mac = self.mac()?;
        let [[_, IpAddr::V6(own)], [_, IpAddr::V6(second)]] = [addresses(10, 1), addresses(10, 2)] else {
            unreachable!("the second is IPv6")
        };
        let all: Ipv6Addr = "ff02::1".parse()?;
        Ok(format!(
            "333300000001{mac}86dd 60000000 0020 3a ff {:032x}{:032x} 88 00 0000 20000000 {:032x} 02 01 {mac}",
            own.to_bits(),
            all.to_bits(),
            second.to_bits()
        ))
    }

    fn annotate(&self, check: &str) -> Result<()> {
        let annotation = format!("manx.dev/sourceCheck: {check}");
        self.pair.annotate(&[("default", &annotation)])?;
        eventually("the interfaces check so", SOON, || {
            let modes = self.pair.here.dataplane()?.modes;
            let (pods, uplinks): (Vec<_>, Vec<_>) =
                modes.interfaces.iter().partition(|interface| interface.name.starts_with("cali"));
            let checks: Vec<_> = pods.iter().map(|interface| interface.source_check.as_deref()).collect();
            ensure!(checks == [Some(check); 2], "{modes:?}");
            ensure!(
                !uplinks.is_empty() && uplinks.iter().all(|uplink| uplink.source_check.is_none()),
                "{modes:?}"
            );
            Ok(())
        })
    }
}

#[test]
fn forged_sources_and_neighbours_are_dropped_as_the_annotation_says_in_both_families() -> Result<()> {
    let scene = Scene::new(&[])?;
    let strict = Outcome { arrived: [false; 3], spoofed: 3, forged_neighbour: 2 };
    assert_eq!(scene.try_all()?, strict, "strict without a word");
    // The neighbours' addresses have routes too.
    scene.annotate("Loose")?;
    let loose = Outcome { arrived: [true, true, false], spoofed: 1, forged_neighbour: 0 };
    assert_eq!(scene.try_all()?, loose, "loose");
    scene.annotate("Off")?;
    let off = Outcome { arrived: [true; 3], spoofed: 0, forged_neighbour: 0 };
    assert_eq!(scene.try_all()?, off, "off");
    scene.annotate("Strict")?;
    assert_eq!(scene.try_all()?, strict, "strict again");
    for address in addresses(10, 2) {
        ping(&scene.pair.neighbour, address)?;
    }
    Ok(())
}

/// The pod hears nothing of it, and nobody looks at counters of whom he does not suspect.
#[test]
fn what_was_dropped_for_its_source_is_in_the_log_once_a_period_with_the_interface() -> Result<()> {
    let scene = Scene::new(&["--audit-interval", "2"])?;
    let node = &scene.pair.here;
    let interface = scene.pair.neighbour.interface();
    ensure!(!node.log_text()?.contains("dropped in the last"), "{}", node.log_text()?);
    scene.try_all()?;
    eventually("it is said", SOON, || {
        let log = node.log_text()?;
        let said = log.lines().filter(|line| line.contains("dropped in the last 2 s: "));
        let said: Vec<_> = said.collect();
        ensure!(!said.is_empty() && said.len() <= 2, "{said:?}");
        ensure!(said.iter().all(|line| line.contains(&format!("interface=\"{interface}\""))), "{said:?}");
        Ok(())
    })
}
