//! Writes every target's seeds into its corpus.

use std::fs;
use std::path::Path;

// Never run. The instrumented code finds in it what it is linked against.
libfuzzer_sys::fuzz_target!(|_data: &[u8]| {});

fn main() -> std::io::Result<()> {
    for (target, seeds) in whimbrel_fuzz::TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        for (name, bytes) in seeds() {
            fs::write(corpus.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}
