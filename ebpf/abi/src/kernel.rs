//! Numbers in the programs that stand for what only the running kernel's BTF knows. The loader finds each in the
//! object, what the guard asks exactly once, and writes the kernel's over it.

/// The helper number of a call to `bpf_skb_ct_lookup`, which is no helper but a function of the kernel's (kfunc).
pub const SKB_CT_LOOKUP: u32 = 0x0bad_0001;
/// The same for `bpf_ct_release`.
pub const CT_RELEASE: u32 = 0x0bad_0002;
/// The offset at which `nf_conn.status` is loaded.
pub const STATUS: i16 = 0x6b10;
/// The offset at which `nf_conn.timeout` is loaded.
pub const TIMEOUT: i16 = 0x6b2c;

/// The helper number of a call to `bpf_cast_to_kern_ctx`, as [`SKB_CT_LOOKUP`]. This one and the offsets below stand where
/// the FIB's number is read, which is in each program.
pub const CAST_TO_KERN_CTX: u32 = 0x0bad_0003;
/// The offset at which `xdp_buff.rxq` is loaded.
pub const XDP_RXQ: i16 = 0x6c10;
/// The offset at which `xdp_rxq_info.dev` is loaded.
pub const RXQ_DEV: i16 = 0x6c20;
/// The offset at which `sk_buff.dev` is loaded.
pub const SKB_DEV: i16 = 0x6c30;
/// The offset at which `net_device.nd_net` is loaded.
pub const DEV_NET: i16 = 0x6c40;
/// The offset at which `net.ipv4.rt_genid` is loaded.
pub const RT_GENID: i16 = 0x6c54;
/// The offset at which `net.ipv6.fib6_sernum` is loaded.
pub const FIB6_SERNUM: i16 = 0x6c64;
