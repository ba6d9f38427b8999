//! Work inside a namespace, in this process: raw frames, and sockets of any kind, as a host of the
//! lab would have them.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Does `work` on a thread of its own that is in the network namespace at `namespace`, and waits
/// for it. Sockets that it opens stay in that namespace wherever they are used.
///
/// # Errors
/// When the namespace cannot be entered, or `work` panics.
pub fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(namespace)
        .with_context(|| format!("cannot open the namespace {}", namespace.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", namespace.display()))?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("the work in {} panicked", namespace.display()))?
    })
}
