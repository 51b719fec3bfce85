//! What no program can be cheaper than: one that redirects every packet to a place that it has been told beforehand.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLinkId, tc::TcAttachOptions},
};
use manx_tests::netns::Netns;

use super::frame::Mac;

/// Octets of the programs' map.
const TARGET: usize = 36;

/// Where all packets are sent to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Into the pod behind this interface.
    Pod(u32),
    /// Out by this interface to the gateway.
    Gateway(u32, IpAddr),
    /// IPv4 packets only, into the pod behind this interface, to the first MAC from the second.
    IpToPod(u32, [Mac; 2]),
    /// IPv4 packets only, out by this interface to the gateway.
    IpToGateway(u32, IpAddr),
}

impl Target {
    fn program(self) -> &'static str {
        match self {
            Target::Pod(_) => "only_peer",
            Target::Gateway(..) => "only_neigh",
            Target::IpToPod(..) => "ip_to_peer",
            Target::IpToGateway(..) => "ip_to_neigh",
        }
    }

    /// As the programs' map has it.
    fn to_bytes(self) -> [u8; TARGET] {
        let none = ([0; 16], [[0; 6]; 2]);
        let (ifindex, family, (gateway, macs)) = match self {
            Target::Pod(ifindex) => (ifindex, 0, none),
            Target::IpToPod(ifindex, macs) => (ifindex, 0, ([0; 16], macs)),
            Target::Gateway(ifindex, IpAddr::V4(gateway))
            | Target::IpToGateway(ifindex, IpAddr::V4(gateway)) => {
                let mut first = [0; 16];
                first[..4].copy_from_slice(&gateway.octets());
                (ifindex, nix::libc::AF_INET as u32, (first, none.1))
            }
            Target::Gateway(ifindex, IpAddr::V6(gateway))
            | Target::IpToGateway(ifindex, IpAddr::V6(gateway)) => {
                (ifindex, nix::libc::AF_INET6 as u32, (gateway.octets(), none.1))
            }
        };
        let mut bytes = [0; TARGET];
        bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
        bytes[4..8].copy_from_slice(&family.to_ne_bytes());
        bytes[8..24].copy_from_slice(&gateway);
        bytes[24..].copy_from_slice(macs.as_flattened());
        bytes
    }
}

/// The programs, attached while something is measured only.
#[derive(Debug)]
pub struct Floor {
    ebpf: Ebpf,
    attached: Option<(&'static str, SchedClassifierLinkId)>,
}

impl Floor {
    pub fn new(object: &Path) -> Result<Floor> {
        let mut ebpf =
            EbpfLoader::new().btf(None).load(&fs::read(object)?).context("the floor's programs")?;
        for name in ["only_peer", "only_neigh", "ip_to_peer", "ip_to_neigh"] {
            program(&mut ebpf, name)?.load()?;
        }
        Ok(Floor { ebpf, attached: None })
    }

    /// All that comes in by `device` of `ns` goes to `target`.
    pub fn begin(mut self, ns: &Netns, device: &str, target: Target) -> Result<Floor> {
        let device = device.to_owned();
        ns.run(move || {
            let map = self.ebpf.map_mut("TARGET").context("no map TARGET")?;
            Array::<_, [u8; TARGET]>::try_from(map)?.set(0, target.to_bytes(), 0)?;
            let options = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
            let name = target.program();
            let link = program(&mut self.ebpf, name)?
                .attach_with_options(&device, TcAttachType::Ingress, options)
                .with_context(|| format!("{name} at {device}"))?;
            self.attached = Some((name, link));
            Ok(self)
        })
    }

    pub fn end(&mut self) -> Result<()> {
        if let Some((name, link)) = self.attached.take() {
            program(&mut self.ebpf, name)?.detach(link)?;
        }
        Ok(())
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}
