//! Takes the lock on a file and holds it until standard input ends: prints `held`, or `refused` if
//! somebody else has it.
//!
//! On NFS the lock of flock(2), which this is, becomes one on all bytes of the file at the server,
//! as those of fcntl(2) do.

use std::fs::{File, TryLockError};
use std::io::{Read, Result, Write};

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: lab-lock FILE"))?;
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            println!("held");
            std::io::stdout().flush()?;
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        Err(TryLockError::WouldBlock) => println!("refused"),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(())
}
