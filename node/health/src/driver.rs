//! Makes the probes.

use std::{collections::BTreeMap, future, io, net::SocketAddr, sync::Arc, time::Duration};

use steadfast_model::{NodeId, document::CheckKind};
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time};

use crate::{Checks, Opinion, Outcome, Probe, Settings, Target};

/// What this node thinks of each target.
pub type Opinions = Arc<BTreeMap<Target, Opinion>>;

/// The running checks of a node. Dropping it ends them.
#[derive(Debug)]
pub struct Checker {
    targets: watch::Sender<BTreeMap<Target, Settings>>,
    opinions: watch::Receiver<Opinions>,
}

impl Checker {
    /// Starts on the current tokio runtime, with no targets.
    ///
    /// `now_ns` is a monotone clock in nanoseconds (CLOCK_BOOTTIME in the daemon).
    pub fn start(node: NodeId, now_ns: impl Fn() -> u64 + Send + 'static) -> Self {
        let (targets, targets_in) = watch::channel(BTreeMap::new());
        let (opinions_out, opinions) = watch::channel(Opinions::default());
        tokio::spawn(run(Checks::new(node), targets_in, opinions_out, now_ns));
        Self { targets, opinions }
    }

    /// Checks exactly these targets. Those that were there before keep their opinion.
    pub fn set_targets(&self, targets: BTreeMap<Target, Settings>) {
        self.targets.send_if_modified(|old| {
            let changed = *old != targets;
            *old = targets;
            changed
        });
    }

    /// What this node thinks now; wakes at every change of an opinion. Dead servers' reasons are
    /// as of the last change.
    pub fn opinions(&self) -> watch::Receiver<Opinions> {
        self.opinions.clone()
    }
}

async fn run(
    mut checks: Checks,
    mut targets: watch::Receiver<BTreeMap<Target, Settings>>,
    opinions: watch::Sender<Opinions>,
    now_ns: impl Fn() -> u64,
) {
    // Bounded by `PROBES_MAX`: the core hands out no more.
    let mut probes = JoinSet::new();
    loop {
        for probe in checks.poll_probes(now_ns()) {
            probes.spawn(async move { (probe, make(probe).await) });
        }
        let wait_ns = checks.next_due().map(|due_ns| due_ns.saturating_sub(now_ns()));
        let wait = async {
            match wait_ns {
                Some(wait_ns) => time::sleep(Duration::from_nanos(wait_ns)).await,
                None => future::pending().await,
            }
        };
        let mut changed = false;
        tokio::select! {
            set = targets.changed() => {
                if set.is_err() {
                    return;
                }
                checks.set_targets(now_ns(), &targets.borrow_and_update());
                changed = true;
            }
            Some(done) = probes.join_next() => {
                let mut done = Some(done);
                while let Some(result) = done {
                    if let Ok((probe, outcome)) = result {
                        let change = checks.handle_result(now_ns(), probe, outcome);
                        if let Some(change) = &change {
                            tracing::info!(target = %change.target, opinion = ?change.opinion, "check");
                        }
                        changed |= change.is_some();
                    }
                    done = probes.try_join_next();
                }
            }
            () = wait => {}
        }
        if changed {
            let now = checks.opinions().map(|(target, opinion)| (target, opinion.clone()));
            opinions.send_replace(Arc::new(now.collect()));
        }
    }
}

async fn make(probe: Probe) -> Outcome {
    let CheckKind::Tcp = probe.target.kind;
    let addr = SocketAddr::new(probe.target.addr, probe.target.port);
    match time::timeout(probe.timeout, TcpStream::connect(addr)).await {
        Ok(Ok(_)) => Outcome::Up,
        Ok(Err(error)) => judge(&error),
        Err(_) => Outcome::Down { why: format!("no answer within {:?}", probe.timeout) },
    }
}

/// Tells the target's failures from this node's.
fn judge(error: &io::Error) -> Outcome {
    use io::ErrorKind::{
        AddrNotAvailable, NetworkDown, NetworkUnreachable, OutOfMemory, PermissionDenied,
    };
    let unable = match error.kind() {
        // No route, no interface, no port left, a local firewall: never about the server. "No
        // route to host" (EHOSTUNREACH) is about it: nobody answered ARP there.
        AddrNotAvailable | NetworkDown | NetworkUnreachable | OutOfMemory | PermissionDenied => {
            true
        }
        _ => matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS)),
    };
    let why = error.to_string();
    if unable { Outcome::Unable { why } } else { Outcome::Down { why } }
}

/// From the kernel's include/uapi/asm-generic/errno-base.h and errno.h: the system or this process
/// has no file descriptors or no buffers left.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_nodes_troubles_are_not_the_servers() {
        // From the same headers as above.
        let (eperm, eacces, eaddrnotavail, enetunreach) = (1, 13, 99, 101);
        for code in [ENFILE, EMFILE, ENOBUFS, eperm, eacces, eaddrnotavail, enetunreach] {
            let outcome = judge(&io::Error::from_raw_os_error(code));
            assert!(matches!(outcome, Outcome::Unable { .. }), "{code}: {outcome:?}");
        }
        let (econnreset, etimedout, econnrefused, ehostunreach) = (104, 110, 111, 113);
        for code in [econnreset, etimedout, econnrefused, ehostunreach] {
            let outcome = judge(&io::Error::from_raw_os_error(code));
            assert!(matches!(outcome, Outcome::Down { .. }), "{code}: {outcome:?}");
        }
    }
}
