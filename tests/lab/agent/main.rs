//! The lab's hand inside an emulated host: runs shell commands and relays unix sockets for
//! `scripts/lab`.
//!
//! It dials out to the lab, says who it is, and waits for an order on that connection. As soon as
//! one comes it dials anew, so the lab always finds an idle connection, and as many orders run at
//! once as the lab likes. Frames in both directions are a kind (1 byte), a length (4 bytes,
//! big-endian) and as many bytes:
//!
//! | kind | from | content |
//! |---|---|---|
//! | `H` | agent | the token and the name that it was started with, with a space between |
//! | `S` | lab | a command for `sh -c` |
//! | `C` | lab | the path of a unix socket to connect to |
//! | `i` | lab | input; an empty frame ends it |
//! | `o`, `e` | agent | output, error output |
//! | `x` | agent | the last frame: the exit status in decimal, or 128 + the signal |
//!
//! A connection that the lab closes ends its command, with all processes of its group.

mod frame;
mod session;

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// For how long one attempt to reach the lab may take. The kernel's own patience is two minutes, in
/// which it tries half a dozen times: too long for who waits for an answer.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, token, name] = arguments.as_slice() else {
        eprintln!("usage: lab-agent ADDRESS TOKEN NAME");
        return ExitCode::FAILURE;
    };
    loop {
        if let Err(error) = wait_for_order(address, token, name) {
            eprintln!("lab-agent: {address}: {error}");
            // The network of a machine that just booted comes up late, and nothing here could be
            // awaited for it.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Dials the lab and waits until it gives this connection an order, which a thread of its own then
/// carries out.
fn wait_for_order(address: &str, token: &str, name: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    let mut lab = TcpStream::connect_timeout(&address, DIAL_LIMIT)?;
    lab.set_nodelay(true)?;
    frame::write(&mut lab, b'H', format!("{token} {name}").as_bytes())?;
    let (kind, content) = frame::read(&mut lab)?;
    std::thread::spawn(move || session::carry_out(lab, kind, content));
    Ok(())
}
