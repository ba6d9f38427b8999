//! Every input that is kept, without a fuzzer: the corpora, and what made a target fail once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use steadfast_fuzz::TARGETS;

/// All corpora together stay small enough to lie in the repository.
const CORPUS_BYTES_MAX: u64 = 600_000;

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

#[test]
fn every_input_that_is_kept_passes() -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut bytes = 0;
    for target in TARGETS {
        let corpus = files(&here.join("corpus").join(target.name))?;
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        // A target that never failed has no folder of regressions.
        let regressions = here.join("regressions").join(target.name);
        let regressions = if regressions.exists() { files(&regressions)? } else { Vec::new() };
        let all = corpus.iter().chain(&regressions);
        for path in all {
            // The last line before a panic: what to replay.
            println!("TARGET={} {}", target.name, path.display());
            let input = fs::read(path)?;
            bytes += input.len() as u64;
            (target.run)(&input);
        }
        eprintln!("{}: {} + {} inputs", target.name, corpus.len(), regressions.len());
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} octets: minimise, see the crate's documentation");
    Ok(())
}
