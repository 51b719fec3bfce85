//! How the programs read how often the kernel's routes have changed: from the packet through its device to the namespace, at
//! offsets that the kernel's own types say. Where they do not, or the kernel does not let programs look, the FIB is asked
//! for every packet to an own block, which costs time and nothing else.

use std::fs;

use manx_abi::kernel;

use super::{
    Error,
    btf::{Btf, NotBtf},
    kfunc::{KERNEL, code, instruction, refused},
};

const CAST: &str = "bpf_cast_to_kern_ctx";

/// What the running kernel has in the places of [`kernel`]'s numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    cast: u32,
    offsets: [i16; PLACES.len()],
}

const PLACES: [i16; 6] = [
    kernel::XDP_RXQ,
    kernel::RXQ_DEV,
    kernel::SKB_DEV,
    kernel::DEV_NET,
    kernel::RT_GENID,
    kernel::FIB6_SERNUM,
];

/// Whether the object can now read them.
pub(super) fn resolve(object: &mut [u8]) -> Result<bool, Error> {
    let found = fs::read(KERNEL).ok().and_then(|bytes| numbers(&Btf::parse(&bytes).ok()?).ok()?);
    match found {
        Some(numbers) => replace(object, numbers).map(|()| true),
        None => Ok(false),
    }
}

/// None if one of them is not there.
fn numbers(kernel: &Btf<'_>) -> Result<Option<Numbers>, NotBtf> {
    let Some(cast) = kernel.function(CAST)? else { return Ok(None) };
    let found = kernel.members([
        ("xdp_buff", "rxq"),
        ("xdp_rxq_info", "dev"),
        ("sk_buff", "dev"),
        ("net_device", "nd_net"),
        ("net", "ipv4"),
        ("netns_ipv4", "rt_genid"),
        ("net", "ipv6"),
        ("netns_ipv6", "fib6_sernum"),
    ])?;
    let [
        Some(rxq),
        Some(rxq_dev),
        Some(skb_dev),
        Some(net),
        Some(ipv4),
        Some(genid),
        Some(ipv6),
        Some(sernum),
    ] = found
    else {
        return Ok(None);
    };
    let offsets = [rxq, rxq_dev, skb_dev, net, ipv4.saturating_add(genid), ipv6.saturating_add(sernum)];
    let mut narrow = [0; PLACES.len()];
    for (narrow, offset) in narrow.iter_mut().zip(offsets) {
        let Ok(offset) = i16::try_from(offset) else { return Ok(None) };
        *narrow = offset;
    }
    Ok(Some(Numbers { cast, offsets: narrow }))
}

/// Each stands in the object where a program reads it, at least once.
fn replace(object: &mut [u8], numbers: Numbers) -> Result<(), Error> {
    let mut casts = 0;
    let mut loads = [0; PLACES.len()];
    for (start, end) in code(object).ok_or_else(|| refused("it is no ELF object"))? {
        let section = object.get_mut(start..end).ok_or_else(|| refused("a section ends beyond its file"))?;
        let mut instructions = section.chunks_exact_mut(instruction::SIZE);
        while let Some(instruction) = instructions.next() {
            let [code, registers, o0, o1, n0, n1, n2, n3] = instruction else {
                continue;
            };
            let (offset, number) = (i16::from_le_bytes([*o0, *o1]), u32::from_le_bytes([*n0, *n1, *n2, *n3]));
            if *code == instruction::LOAD_64 {
                instructions.next();
            } else if *code == instruction::CALL && number == kernel::CAST_TO_KERN_CTX {
                *registers = instruction::PSEUDO_KFUNC_CALL << 4;
                [*o0, *o1] = [0; 2];
                [*n0, *n1, *n2, *n3] = numbers.cast.to_le_bytes();
                casts += 1;
            } else if *code & 0x07 == instruction::LDX
                && let Some(place) = PLACES.iter().position(|place| *place == offset)
                && let (Some(found), Some(times)) = (numbers.offsets.get(place), loads.get_mut(place))
            {
                [*o0, *o1] = found.to_le_bytes();
                *times += 1;
            }
        }
    }
    if casts == 0 || loads.contains(&0) {
        return Err(refused(&format!(
            "how often routes have changed is read {casts} times in it, by loads {loads:?}, and must be read by each"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::OBJECT, *};

    const NUMBERS: Numbers = Numbers { cast: 0x1234_5678, offsets: [32, 0, 16, 264, 900, 2400] };

    #[test]
    fn each_of_the_numbers_is_in_the_object_and_is_replaced_wherever_it_stands() {
        let mut object = OBJECT.to_vec();
        replace(&mut object, NUMBERS).unwrap();
        let error = replace(&mut object, NUMBERS).unwrap_err();
        assert!(error.to_string().contains("read 0 times in it, by loads [0, 0, 0, 0, 0, 0]"), "{error}");
        assert!(replace(&mut b"\x7fELF".to_vec(), NUMBERS).is_err());
    }

    #[test]
    fn the_running_kernel_says_how_often_its_routes_have_changed() {
        // Since Linux 6.2, where BTF is; the programs need 6.6.
        assert!(resolve(&mut OBJECT.to_vec()).unwrap());
    }
}
