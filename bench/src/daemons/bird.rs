//! BIRD 2 with a protocol for each client, and none for the kernel's routes.

use std::{fmt::Write, path::Path, process::Command};

use anyhow::Result;

use crate::scenario::{ASN, DAEMON, client};

pub fn command(clients: usize, dir: &Path) -> Result<Command> {
    let mut text = format!(
        "log stderr {{ warning, error, fatal, bug }};\n\
         router id {DAEMON};\n\
         protocol device {{}}\n\
         # Next hops are resolved on the veth.\n\
         protocol direct {{ ipv4; }}\n\
         template bgp reflected {{\n  \
           local {DAEMON} as {ASN};\n  \
           passive;\n  \
           rr client;\n  \
           rr cluster id 224.0.0.1;\n  \
           ipv4 {{ import all; export where source = RTS_BGP; }};\n\
         }}\n"
    );
    for number in 0..clients {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "protocol bgp c{number} from reflected {{ neighbor {} as {ASN}; }}",
            client(number)
        );
    }
    let config = super::write(dir, "bird.conf", &text)?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(config).arg("-s").arg(dir.join("bird.ctl"));
    Ok(command)
}
