//! Questions by plain HTTP, asked in a host.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::host::Host;

/// The code and the body of the answer.
pub fn get(host: &Host, address: &'static str, path: &str) -> Result<(u16, String)> {
    let path = path.to_owned();
    host.run(move || {
        let address: SocketAddr = address.parse()?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // An answer to version 1.0 comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let code = head.split(' ').nth(1).context("no code")?.parse()?;
        Ok((code, body.to_owned()))
    })
}
