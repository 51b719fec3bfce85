//! What no program can be cheaper than: one that redirects every packet to a place that it has been told beforehand.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLinkId, tc::TcAttachOptions},
};
use manx_tests::netns::Netns;

/// Where all packets are sent to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Into the pod behind this interface.
    Pod(u32),
    /// Out by this interface to the gateway.
    Gateway(u32, IpAddr),
}

impl Target {
    fn program(self) -> &'static str {
        match self {
            Target::Pod(_) => "only_peer",
            Target::Gateway(..) => "only_neigh",
        }
    }

    /// As the programs' map has it.
    fn to_bytes(self) -> [u8; 24] {
        let (ifindex, family, gateway) = match self {
            Target::Pod(ifindex) => (ifindex, 0, [0; 16]),
            Target::Gateway(ifindex, IpAddr::V4(gateway)) => {
                let mut first = [0; 16];
                first[..4].copy_from_slice(&gateway.octets());
                (ifindex, nix::libc::AF_INET as u32, first)
            }
            Target::Gateway(ifindex, IpAddr::V6(gateway)) => {
                (ifindex, nix::libc::AF_INET6 as u32, gateway.octets())
            }
        };
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
        bytes[4..8].copy_from_slice(&family.to_ne_bytes());
        bytes[8..].copy_from_slice(&gateway);
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
        for name in ["only_peer", "only_neigh"] {
            program(&mut ebpf, name)?.load()?;
        }
        Ok(Floor { ebpf, attached: None })
    }

    /// All that comes in by `device` of `ns` goes to `target`.
    pub fn begin(mut self, ns: &Netns, device: &str, target: Target) -> Result<Floor> {
        let device = device.to_owned();
        ns.run(move || {
            let map = self.ebpf.map_mut("TARGET").context("no map TARGET")?;
            Array::<_, [u8; 24]>::try_from(map)?.set(0, target.to_bytes(), 0)?;
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
