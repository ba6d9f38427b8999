//! Two network namespaces and a veth pair between them: `a0` of the node, `b0` of who sends.
//!
//! Guarantees: what is made goes when this goes.

use std::{
    fs::File,
    os::fd::AsFd as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use af_xdp::{Steering, steering::BPFFS};
use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::world::FRONT;

/// The node's interface.
pub(crate) const NODE: &str = "a0";
/// The other end.
pub(crate) const PEER: &str = "b0";

/// Where packets come from.
#[derive(Debug)]
pub(crate) struct Cable {
    node: String,
    peer: String,
}

impl Cable {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("sfb-{}-{number}{side}", std::process::id());
        let cable = Self { node: name('n'), peer: name('p') };
        let mac = FRONT.map(|octet| format!("{octet:02x}")).join(":");
        let Self { node, peer } = &cable;
        for namespace in [node, peer] {
            run(&format!("ip netns add {namespace}"))?;
        }
        run(&format!(
            "ip -n {node} link add {NODE} address {mac} type veth peer name {PEER} netns {peer}"
        ))?;
        for (namespace, link) in [(node, NODE), (peer, PEER)] {
            // Every packet that is counted is one of ours.
            let within = format!("ip netns exec {namespace}");
            run(&format!("{within} sysctl -q net.ipv6.conf.{link}.disable_ipv6=1"))?;
            run(&format!("{within} ethtool -K {link} tx off"))?;
            run(&format!("ip -n {namespace} link set {link} up"))?;
        }
        Ok(cable)
    }

    /// A name for the pins of the steering program.
    pub(crate) fn instance(&self) -> &str {
        &self.node
    }

    pub(crate) fn in_node<R: Send>(&self, body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        within(&self.node, body)
    }

    pub(crate) fn in_peer<R: Send>(&self, body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        within(&self.peer, body)
    }

    /// Has frames for the node sent back by a program in the kernel.
    pub(crate) fn send_back(&self, object: &Path) -> Result<()> {
        set_program(&self.node, NODE, object, "xdp_tx")
    }

    /// Has frames that come back counted and dropped. A veth takes nothing from a program at its
    /// other end before it has one itself.
    pub(crate) fn drop_returned(&self, object: &Path) -> Result<()> {
        set_program(&self.peer, PEER, object, "xdp_drop")
    }

    /// Packets that came back to the sender so far.
    pub(crate) fn returned(&self) -> Result<u64> {
        self.in_peer(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
            let line = text.lines().find_map(|line| line.trim().strip_prefix(PEER));
            let fields = line.and_then(|line| line.strip_prefix(':')).context("no counters")?;
            Ok(fields.split_whitespace().nth(1).context("no packets")?.parse()?)
        })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Err(error) = Steering::detach(Path::new(BPFFS), &self.node, NODE) {
            eprintln!("pins of {} stay: {error}", self.node);
        }
        for namespace in [&self.node, &self.peer] {
            let _ = run(&format!("ip netns delete {namespace}"));
        }
    }
}

fn set_program(namespace: &str, link: &str, object: &Path, program: &str) -> Result<()> {
    let object = object.display();
    run(&format!("ip -n {namespace} link set dev {link} xdpdrv obj {object} program {program}"))
}

fn within<R: Send>(namespace: &str, body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let path = format!("/run/netns/{namespace}");
            let file = File::open(&path).with_context(|| path.clone())?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("root is needed to enter a network namespace")?;
            body()
        });
        inside.join().map_err(|_| anyhow!("a thread inside {namespace} panicked"))?
    })
}

/// Runs a program that must succeed.
pub(crate) fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .output()
        .with_context(|| format!("{program} (is it installed?)"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {error}");
    Ok(())
}
