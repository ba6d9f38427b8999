//! Forwarding from a veth back into it: a worker of the data plane over AF_XDP, beside a program
//! that does nothing but AF_XDP, and one that does not even leave the kernel.
//!
//! All of them get the same frames from the same sender, which sends what it can. Sender and
//! forwarder have a processor each; receiving is done on the sender's, sending on the forwarder's.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use af_xdp::{
    AddressRole, BindMode, Frame, Interface, RECEIVE_BURST_MAX, Socket, Steering, Umem, UmemConfig,
    poll, steering::BPFFS,
};
use anyhow::{Context as _, Result, ensure};
use rustix::{
    process::geteuid,
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use steadfast_dataplane::{Actions, SchedulerKind, Verdict};

use crate::{
    cable::{Cable, NODE, PEER, run},
    draw::{Draw, Drawer},
    mode::Mode,
    world::{ACK, LEN, Shape, Way, World, vip},
};

/// Frames that the sender sends again and again.
const FRAMES: usize = 8192;
/// Established connections that they belong to.
const FLOWS: [u64; 2] = [1_000, 1_000_000];
const FLOWS_QUICK: [u64; 1] = [1_000];
/// How long each forwarder runs in a round.
const ROUND: Duration = Duration::from_secs(2);
const ROUND_QUICK: Duration = Duration::from_millis(100);
/// How long a forwarder may take for its first packet.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rounds; the median counts.
const ROUNDS: usize = 5;
/// Addresses of services.
const VIPS: u32 = 10;
/// The longest wait for packets.
const WAIT: Duration = Duration::from_millis(10);

/// A forwarder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    XdpTx,
    Bare,
    Ours,
}

/// What one did in a round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Packets a second that came back.
    pps: f64,
    /// Nanoseconds of the forwarder's thread per packet, 0 for one that has none.
    cpu_ns: f64,
}

/// Prints the table.
pub(crate) fn print(quick: bool) -> Result<()> {
    if !geteuid().is_root() {
        println!("\nForwarding between veths is not measured: network namespaces need root.");
        return Ok(());
    }
    let processors = thread::available_parallelism()?.get();
    ensure!(processors > 1, "sender and forwarder need a processor each, there is only one");
    let object = Object::compile()?;
    println!(
        "\nFrames of 64 bytes from a veth back into it, DR, one sender, one queue, {ROUNDS} rounds of \
         each in turn, medians. The same steering program is in front of both AF_XDP forwarders; \
         `CPU` is the time of the forwarder's thread per packet, the kernel's sending included.\n"
    );
    println!("| connections | forwarder | packets/s | / bare AF_XDP | CPU | / bare AF_XDP |");
    println!("|---|---|---|---|---|---|");
    for flows in if quick { &FLOWS_QUICK[..] } else { &FLOWS } {
        let length = if quick { ROUND_QUICK } else { ROUND };
        let kinds = [Kind::XdpTx, Kind::Bare, Kind::Ours];
        let mut all = [const { Vec::new() }; 3];
        let mut world = world(*flows)?;
        let frames = frames(&world, *flows);
        for _ in 0..ROUNDS {
            for (kind, seen) in kinds.iter().zip(&mut all) {
                seen.push(round(*kind, &mut world, &frames, &object.path(), length)?);
            }
        }
        let [_, bare, _] = all.each_ref().map(|seen| median(seen));
        for (kind, seen) in kinds.iter().zip(&all) {
            let Round { pps, cpu_ns } = median(seen);
            let name = match kind {
                Kind::XdpTx => "XDP_TX, in the kernel",
                Kind::Bare => "bare AF_XDP",
                Kind::Ours => "the data plane",
            };
            let (cpu, ratio) = match kind {
                Kind::XdpTx => ("-".to_owned(), "-".to_owned()),
                _ => (format!("{cpu_ns:.0} ns"), format!("{:.2}", cpu_ns / bare.cpu_ns)),
            };
            let to_bare = pps / bare.pps;
            println!("| {flows} | {name} | {pps:.0} | {to_bare:.2} | {cpu} | {ratio} |");
        }
    }
    Ok(())
}

fn median(seen: &[Round]) -> Round {
    let of = |value: fn(&Round) -> f64| {
        let mut values: Vec<f64> = seen.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    Round { pps: of(|r| r.pps), cpu_ns: of(|r| r.cpu_ns) }
}

/// The programs at both ends, compiled.
struct Object {
    dir: PathBuf,
}

impl Object {
    fn compile() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("steadfast-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let this = Self { dir };
        let source = this.dir.join("ends.c");
        std::fs::write(&source, include_str!("ends.c"))?;
        let include = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let (source, to) = (source.display(), this.path());
        let to = to.display();
        run(&format!("clang-14 -O2 -g -target bpf -I {include} -c {source} -o {to}"))?;
        Ok(this)
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ends.o")
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn world(flows: u64) -> Result<World> {
    let mut world = World::new(Shape {
        mode: Mode::Dr,
        services: VIPS,
        servers: 10,
        scheduler: SchedulerKind::default(),
        connections_max: flows as usize,
    })?;
    world.fill(0, flows)?;
    world.age(flows);
    Ok(world)
}

fn frames(world: &World, flows: u64) -> Vec<[u8; LEN]> {
    let mut drawer = Drawer::new(Draw::Uniform, flows, 17);
    let mut frame = [0; LEN];
    let mut next = |_| {
        frame.copy_from_slice(&world.build(drawer.next(), Way::In, ACK)[..LEN]);
        frame
    };
    (0..FRAMES).map(&mut next).collect()
}

fn round(
    kind: Kind,
    world: &mut World,
    frames: &[[u8; 64]],
    object: &Path,
    length: Duration,
) -> Result<Round> {
    let cable = Cable::new()?;
    cable.drop_returned(object)?;
    let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    let cpu_ns = AtomicU64::new(0);
    if kind == Kind::XdpTx {
        cable.send_back(object)?;
        ready.store(true, Ordering::Release);
    }
    world.set_peers()?;
    thread::scope(|scope| {
        let forwarder = scope.spawn(|| match kind {
            Kind::XdpTx => Ok(()),
            Kind::Bare => cable.in_node(|| {
                let bare = |umem: &mut Umem, mut frame: Frame| {
                    let (macs, _) = umem.bytes_mut(&mut frame).split_at_mut(12);
                    macs.rotate_left(6);
                    Some(frame)
                };
                forward(&cable, &ready, &stop, &cpu_ns, |_: &Umem, _: &[Frame]| {}, bare)
            }),
            Kind::Ours => cable.in_node(|| ours(&cable, &ready, &stop, &cpu_ns, world)),
        });
        let sender = scope.spawn(|| cable.in_peer(|| send(frames, &ready, &stop)));
        let measured = (|| {
            while !ready.load(Ordering::Acquire) {
                ensure!(!forwarder.is_finished(), "the forwarder did not start");
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(length / 4);
            let (began, before, cpu) =
                (Instant::now(), cable.returned()?, cpu_ns.load(Ordering::Relaxed));
            thread::sleep(length);
            // A machine that stands still is no forwarder that does.
            while cable.returned()? == before && began.elapsed() < PATIENCE {
                thread::sleep(length);
            }
            let (after, spent) = (cable.returned()?, cpu_ns.load(Ordering::Relaxed) - cpu);
            let packets = (after - before) as f64;
            let pps = packets / began.elapsed().as_secs_f64();
            Ok(Round { pps, cpu_ns: spent as f64 / packets })
        })();
        stop.store(true, Ordering::Release);
        let ended = [forwarder.join(), sender.join()];
        for ended in ended {
            ended.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        let round: Round = measured?;
        ensure!(round.pps > 0.0, "{kind:?} sent nothing back");
        Ok(round)
    })
}

/// The data plane's worker between receiving and sending, as the daemon has it.
fn ours(
    cable: &Cable,
    ready: &AtomicBool,
    stop: &AtomicBool,
    cpu_ns: &AtomicU64,
    world: &mut World,
) -> Result<()> {
    let (worker, now_ns) = (std::cell::RefCell::new(&mut world.worker), &mut world.now_ns);
    let mut actions = Actions::new();
    let (began, from_ns) = (Instant::now(), *now_ns);
    let now = || from_ns + began.elapsed().as_nanos() as u64;
    let prepare = |umem: &Umem, burst: &[Frame]| {
        worker.borrow_mut().prepare(burst.iter().map(|frame| umem.bytes(frame)));
    };
    let handle = |umem: &mut Umem, mut frame: Frame| {
        let (headroom, len) = (frame.headroom(), frame.len());
        let whole = headroom + frame.capacity();
        frame.grow_front(headroom).and_then(|()| frame.set_len(whole)).ok()?;
        let buffer = umem.bytes_mut(&mut frame);
        let mut worker = worker.borrow_mut();
        let verdict = worker.handle_frame(now(), 0, buffer, (headroom, len), &mut actions);
        let Verdict::Transmit { start, len, .. } = verdict else { return None };
        frame.shrink_front(start).and_then(|()| frame.set_len(len)).ok()?;
        Some(frame)
    };
    let result = forward(cable, ready, stop, cpu_ns, prepare, handle);
    *now_ns = now();
    result
}

/// Receives, has each frame handled, sends.
fn forward(
    cable: &Cable,
    ready: &AtomicBool,
    stop: &AtomicBool,
    cpu_ns: &AtomicU64,
    prepare: impl Fn(&Umem, &[Frame]),
    mut handle: impl FnMut(&mut Umem, Frame) -> Option<Frame>,
) -> Result<()> {
    pin(1)?;
    let interface = Interface::by_name(NODE)?;
    let mut umem = Umem::new(UmemConfig::for_sockets(2))?;
    let mut socket = Socket::bind(&mut umem, interface.index, 0, BindMode::Copy)?;
    let mut steering = Steering::open(Path::new(BPFFS), cable.instance(), NODE)?;
    let vips = (0..VIPS).map(|number| (IpAddr::V4(vip(number)), AddressRole::Vip));
    steering.set_addresses(vips)?;
    steering.insert_socket(0, &socket)?;
    steering.attach()?;
    ready.store(true, Ordering::Release);
    let mut burst = Vec::with_capacity(RECEIVE_BURST_MAX as usize);
    while !stop.load(Ordering::Relaxed) {
        socket.complete(&mut umem);
        let count = socket.receive(&mut burst);
        socket.refill(&mut umem);
        prepare(&umem, &burst);
        for frame in burst.drain(..) {
            if let Some(frame) = handle(&mut umem, frame)
                && let Err(frame) = socket.send(frame)
            {
                umem.free(frame);
            }
        }
        socket.flush()?;
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        let spent = spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64;
        cpu_ns.store(spent, Ordering::Relaxed);
        if count == 0 {
            poll([socket.as_fd()], WAIT)?;
        }
    }
    Ok(())
}

/// Sends frames until told to stop.
fn send(frames: &[[u8; 64]], ready: &AtomicBool, stop: &AtomicBool) -> Result<()> {
    pin(0)?;
    let interface = Interface::by_name(PEER)?;
    let mut umem = Umem::new(UmemConfig::for_sockets(1))?;
    let mut socket = Socket::bind(&mut umem, interface.index, 0, BindMode::Copy)?;
    let mut next = frames.iter().cycle();
    while !stop.load(Ordering::Relaxed) {
        if !ready.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        socket.complete(&mut umem);
        for _ in 0..RECEIVE_BURST_MAX {
            let frame = next.next().and_then(|frame| umem.alloc_with(frame));
            let Some(frame) = frame else { break };
            if let Err(frame) = socket.send(frame) {
                umem.free(frame);
                break;
            }
        }
        socket.flush()?;
    }
    Ok(())
}

fn pin(processor: usize) -> Result<()> {
    let mut own = CpuSet::new();
    own.set(processor);
    sched_setaffinity(None, &own).with_context(|| format!("processor {processor}"))
}
