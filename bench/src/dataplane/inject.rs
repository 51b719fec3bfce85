//! Frames made in the kernel (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES) and sent by a device, and what counts
//! them where they arrive. Everything up to there runs on the injector's CPU within the time that the kernel measures.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{
        SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
        tc::TcAttachOptions,
    },
};
use manx_tests::netns::Netns;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, gettid},
};

use super::{
    frame::{LENGTH, Template},
    node::index,
};

/// Frames that are sent before the receiver has its turn; a veth holds 256.
const BATCH: u32 = 64;

fn load(object: &[u8]) -> Result<Ebpf> {
    EbpfLoader::new().btf(None).load(object).context("the benchmark's programs")
}

#[derive(Debug)]
pub struct Injector {
    ebpf: Arc<Mutex<Ebpf>>,
    cpu: usize,
}

impl Injector {
    pub fn new(object: &Path, cpu: usize) -> Result<Injector> {
        let bytes = fs::read(object)
            .with_context(|| format!("{}; cargo xtask build-ebpf makes it", object.display()))?;
        let mut ebpf = load(&bytes)?;
        let inject: &mut Xdp = ebpf.program_mut("inject").context("no program inject")?.try_into()?;
        inject.load()?;
        Ok(Injector { ebpf: Arc::new(Mutex::new(ebpf)), cpu })
    }

    /// Sends `count` frames by a device of `ns`; the kernel's own measure of a frame, in ns.
    pub fn send(&self, ns: &Netns, device: &str, template: &Template, count: u32) -> Result<f64> {
        let ifindex = index(ns, device)?;
        let (ebpf, template, cpu) = (Arc::clone(&self.ebpf), *template, self.cpu);
        ns.run(move || {
            steady(cpu)?;
            let mut ebpf = ebpf.lock().unwrap_or_else(PoisonError::into_inner);
            let map = ebpf.map_mut("TEMPLATE").context("no map TEMPLATE")?;
            Array::<_, Template>::try_from(map)?.set(0, template, 0)?;
            let inject: &Xdp = ebpf.program("inject").context("no program inject")?.try_into()?;
            let context = xdp_context(ifindex);
            let (frame, _) = template.split_at(LENGTH);
            let done = inject.test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            })?;
            // A frame's share, rounded down to whole nanoseconds by the kernel.
            Ok(done.duration.as_nanos() as f64)
        })
    }
}

/// On one CPU, and in front of whatever else wants it. What is refused only makes the figures less steady.
pub fn steady(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pinning the injector")?;
    let thread = gettid().to_string();
    let _ = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).output();
    Ok(())
}

/// `struct xdp_md`.
fn xdp_context(ifindex: u32) -> Vec<u8> {
    // 80 octets.
    let (data, data_end, data_meta, queue, egress) = (0u32, LENGTH as u32, 0u32, 0u32, 0u32);
    [data, data_end, data_meta, ifindex, queue, egress].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The end of a way.
#[derive(Debug)]
pub struct Arrival {
    ebpf: Ebpf,
}

impl Arrival {
    /// Counts and ends what comes up to the stack of `device`.
    pub fn at(ns: &Netns, device: &str, object: &Path) -> Result<Arrival> {
        let (device, bytes) = (device.to_owned(), fs::read(object)?);
        ns.run(move || {
            let mut ebpf = load(&bytes)?;
            let arrive: &mut SchedClassifier =
                ebpf.program_mut("arrive_tc").context("no program arrive_tc")?.try_into()?;
            arrive.load()?;
            let options = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
            arrive.attach_with_options(&device, TcAttachType::Ingress, options)?;
            Ok(Arrival { ebpf })
        })
    }

    /// Ends frames where the device's driver receives them.
    pub fn in_the_driver(ns: &Netns, device: &str, object: &Path) -> Result<Arrival> {
        let (ifindex, bytes) = (index(ns, device)?, fs::read(object)?);
        ns.run(move || {
            let mut ebpf = load(&bytes)?;
            let arrive: &mut Xdp =
                ebpf.program_mut("arrive_xdp").context("no program arrive_xdp")?.try_into()?;
            arrive.load()?;
            arrive.attach_to_if_index(ifindex, XdpMode::Driver)?;
            Ok(Arrival { ebpf })
        })
    }

    pub fn count(&self) -> Result<u64> {
        let map = self.ebpf.map("ARRIVED").context("no map ARRIVED")?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

/// Frames that a device of `ns` has received since it was made.
pub fn received(ns: &Netns, device: &str) -> Result<u64> {
    let table = ns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse().ok());
    let packets: Option<u64> = packets;
    ensure!(packets.is_some(), "no counters of {device}");
    packets.context("no counters")
}
