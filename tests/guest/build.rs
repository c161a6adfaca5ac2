//! Builds the bare-metal test guest with the toolchain that builds everything else.
//!
//! Cargo cannot do it as a dependency on stable Rust (a `no_std` binary with its own linker script
//! inside another target's graph needs artifact dependencies), so this calls `$RUSTC` itself. The
//! library takes the result in with `include_bytes!(env!("WHIMBREL_TEST_GUEST"))`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let guest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("tests/guest");
    let elf = PathBuf::from(env::var("OUT_DIR")?).join("guest.elf");
    watch(&guest)?;

    let script = guest.join("link.ld");
    let script = script.to_str().ok_or("the path of tests/guest/link.ld is not UTF-8")?;
    let output = Command::new(env::var("RUSTC")?)
        .args(["--crate-name=whimbrel_guest", "--crate-type=bin", "--edition=2024"])
        .args(["-Cpanic=abort", "-Copt-level=3", "-Ccodegen-units=1", "-Cstrip=debuginfo"])
        .args(["-Crelocation-model=static", "-Clink-arg=-nostdlib", "-Clink-arg=-static", "-Clink-arg=-no-pie"])
        .args(["-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-z,noexecstack"])
        .arg(format!("-Clink-arg=-Wl,-T,{script}"))
        .arg("-o")
        .arg(&elf)
        .arg(guest.join("src/main.rs"))
        .output()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err("the test guest (tests/guest) does not build; the compiler's words stand above".into());
    }
    println!("cargo:rustc-env=WHIMBREL_TEST_GUEST={}", elf.display());
    Ok(())
}

/// Has cargo run this again when anything of the guest changes.
fn watch(guest: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", guest.join("build.rs").display());
    println!("cargo:rerun-if-changed={}", guest.join("link.ld").display());
    println!("cargo:rerun-if-changed={}", guest.join("src").display());
    for file in fs::read_dir(guest.join("src"))? {
        println!("cargo:rerun-if-changed={}", file?.path().display());
    }
    Ok(())
}
