//! Every input that is kept, without a fuzzer: the corpora, and what made a target fail once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use steadfast_fuzz::{
    TARGETS,
    frame::{self, Handshakes},
};

/// All corpora together stay small enough to lie in the repository.
const CORPUS_BYTES_MAX: u64 = 600_000;

/// Inputs that come to a place, so that the fuzzer has something to go on from.
const KEPT_MIN: u64 = 3;

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// Past a cookie nothing comes that does not know it: the fuzzer would have to guess 32 bits.
#[test]
fn the_corpus_comes_past_cookies() -> io::Result<()> {
    let corpus = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/frame"))?;
    let mut found = [Handshakes::default(); 2];
    for path in corpus {
        for (all, one) in found.iter_mut().zip(frame::handshakes(&fs::read(path)?)) {
            all.asked += one.asked;
            all.accepted += one.accepted;
            all.given_up += one.given_up;
            all.joined += one.joined;
        }
    }
    for (all, family) in found.into_iter().zip(["IPv4", "IPv6"]) {
        println!("{family}: {all:?}");
        let Handshakes { asked, accepted, given_up, joined } = all;
        assert!(asked >= KEPT_MIN, "{family}: hardly a SYN is answered with a cookie: {asked}");
        assert!(accepted >= KEPT_MIN, "{family}: hardly a cookie is accepted: {accepted}");
        assert!(joined >= KEPT_MIN, "{family}: hardly a server answers: {joined}");
        assert!(given_up >= 2, "{family}: no server refuses, or none is silent: {given_up}");
    }
    Ok(())
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
