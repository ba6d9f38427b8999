//! A worker thread: the AF_XDP sockets of one queue on every data interface.
//!
//! Guarantees: every frame taken from a socket is sent or returned to the pool; the thread never
//! waits for anything but packets, and never longer than [`POLL_MAX`]. A queue that is still in use
//! is tried again between packets. What a frame means is decided by `steadfast_dataplane::Worker`.
//!
//! Not guaranteed: that frames the kernel holds come back when a socket is closed. The control side
//! counts such sockets and gives the worker new memory in time, see [`super::attach`].

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use af_xdp::{BindError, BindMode, Frame, RECEIVE_BURST_MAX, Socket, Umem, UmemConfig, UmemError};
use steadfast_dataplane::{Action, Actions, Shared, Verdict, Worker, WorkerCounters};
use steadfast_replication::ReplicationHook;
use tracing::{debug, error, info, warn};

use super::port::{PortInfo, PortMode};
use crate::{clock, kernel::Prober, priority};

/// The longest wait for packets; it bounds how late a stop or a new interface is seen.
const POLL_MAX: Duration = Duration::from_millis(10);

/// Frames per socket in the worker's packet memory: fill ring, TX ring, and some under way.
const FRAMES_PER_PORT: u32 = 8192;

/// Interfaces of one worker; VLANs are not counted, what carries them is.
pub(crate) const PORTS_MAX: usize = 8;

/// Sockets, open or lost with their frames, for which the packet memory of a worker suffices: fill
/// and TX ring of each take half of [`FRAMES_PER_PORT`].
pub(super) const SOCKETS_MAX: usize = PORTS_MAX;

/// How often a queue that is in use is tried again at first, and at most.
const BIND_PAUSE_NS: u64 = 5_000_000;
const BIND_PAUSE_MAX_NS: u64 = 80_000_000;

/// For how long. The kernel frees a killed process's queue some 30 ms after it is gone.
pub(super) const BIND_WITHIN: Duration = Duration::from_secs(3);

/// How often sockets are asked whether they still have their interface.
const CHECK_EVERY_NS: u64 = 1_000_000_000;

/// What a worker is told.
pub(super) enum Command {
    /// Packet memory; comes before the first port.
    Memory(Box<Umem>),
    /// Bind a socket on this interface.
    AddPort(Arc<PortInfo>),
    /// Close the socket of the port with this number. With the last one the memory goes too.
    RemovePort(u16),
    /// The beacon interval has changed: it says what a pause is.
    Beacon(Duration),
}

/// What a worker shows to others.
#[derive(Debug)]
pub(crate) struct WorkerStatus {
    pub(crate) queue: u32,
    pub(crate) counters: Arc<WorkerCounters>,
    /// When its loop turned last, boot time in nanoseconds.
    pub(crate) turned_ns: AtomicU64,
    /// The longest time between two turns, less what it waited for packets.
    pub(crate) gap_max_ns: AtomicU64,
    /// Frames the kernel would not take.
    pub(crate) send_failed: AtomicU64,
}

/// A running worker.
pub(crate) struct WorkerHandle {
    pub(crate) status: Arc<WorkerStatus>,
    pub(super) commands: mpsc::Sender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts the worker of `queue`, without packet memory.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(
        queue: u32,
        shared: Arc<Shared>,
        hook: ReplicationHook,
        prober: Prober,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let core = Worker::new(queue as usize, Arc::clone(&shared), hook);
        let status = Arc::new(WorkerStatus {
            queue,
            counters: core.counters(),
            turned_ns: AtomicU64::new(clock::now_ns()),
            gap_max_ns: AtomicU64::new(0),
            send_failed: AtomicU64::new(0),
        });
        let (commands, receiver) = mpsc::channel();
        let mut running = Running {
            queue,
            core,
            shared,
            umem: None,
            ports: std::array::from_fn(|_| None),
            pending: Vec::new(),
            checked_ns: 0,
            prober,
            status: Arc::clone(&status),
            beacon: Duration::from_millis(25),
        };
        let thread =
            std::thread::Builder::new().name(format!("worker-{queue}")).spawn(move || {
                priority::raise(priority::WORKER);
                running.run(&receiver, &stop);
            })?;
        Ok(Self { status, commands, thread: Some(thread) })
    }

    /// Waits for the thread to end; tell it to stop first.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!(queue = self.status.queue, "a worker thread had panicked");
        }
    }
}

/// Packet memory for one worker.
///
/// # Errors
/// When there is not enough.
pub(super) fn packet_memory() -> Result<Umem, UmemError> {
    let frames = FRAMES_PER_PORT * PORTS_MAX as u32 / 2;
    Umem::new(UmemConfig { frames, ..UmemConfig::default() })
}

struct Running {
    queue: u32,
    core: Worker<ReplicationHook>,
    shared: Arc<Shared>,
    umem: Option<Box<Umem>>,
    ports: [Option<Port>; PORTS_MAX],
    /// Sockets that are not bound yet.
    pending: Vec<Pending>,
    checked_ns: u64,
    prober: Prober,
    status: Arc<WorkerStatus>,
    beacon: Duration,
}

/// A bound socket.
struct Port {
    socket: Socket,
    info: Arc<PortInfo>,
}

/// A socket that is still to be bound.
struct Pending {
    info: Arc<PortInfo>,
    /// When to try next, how long to wait after that, and when to give up.
    next_ns: u64,
    pause_ns: u64,
    until_ns: u64,
}

impl Running {
    fn run(&mut self, commands: &mpsc::Receiver<Command>, stop: &AtomicBool) {
        let mut frames: Vec<Frame> = Vec::with_capacity(RECEIVE_BURST_MAX as usize);
        let mut actions = Actions::new();
        let mut before = clock::now_ns();
        while !stop.load(Ordering::Acquire) {
            while let Ok(command) = commands.try_recv() {
                self.obey(command);
            }
            self.bind_pending();
            let now = clock::now_ns();
            self.check_sockets(now);
            self.judge_gap(now, before);
            before = now;
            self.status.turned_ns.store(now, Ordering::Release);
            let busy = self.turn(now, &mut frames, &mut actions);
            if !busy {
                self.wait();
            }
        }
    }

    /// A pause of this thread: ARP that queued up meanwhile must not be answered, for another
    /// node may hold the address by now.
    fn judge_gap(&mut self, now: u64, before: u64) {
        let gap = Duration::from_nanos(now.saturating_sub(before)).saturating_sub(POLL_MAX);
        let gap_ns = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        self.status.gap_max_ns.fetch_max(gap_ns, Ordering::Relaxed);
        if gap >= self.beacon * 3 {
            let mute = u64::try_from((self.beacon * 2).as_nanos()).unwrap_or(u64::MAX);
            self.core.discard_questions_until(now.saturating_add(mute));
        }
    }

    /// One round over all sockets; says whether anything came.
    fn turn(&mut self, now: u64, frames: &mut Vec<Frame>, actions: &mut Actions) -> bool {
        // Taken out for the round: frames and sockets are borrowed apart from it.
        let Some(mut umem) = self.umem.take() else { return false };
        let mut busy = false;
        for number in 0..PORTS_MAX {
            let Some(port) = &mut self.ports[number] else { continue };
            port.socket.complete(&mut umem);
            busy |= port.socket.receive(frames) > 0;
            port.socket.refill(&mut umem);
            self.core.prepare(frames.iter().map(|frame| umem.bytes(frame)));
            for frame in frames.drain(..) {
                self.handle(&mut umem, now, number, frame, actions);
                if actions.has_frames() {
                    actions.send_frames(|port, bytes| self.send(&mut umem, port, bytes));
                }
            }
            self.act(&mut umem, actions);
        }
        self.core.advance(now, actions);
        self.act(&mut umem, actions);
        for Port { socket, .. } in self.ports.iter_mut().flatten() {
            if let Err(error) = socket.flush() {
                debug!(queue = self.queue, ifindex = socket.ifindex(), "cannot send: {error}");
                self.status.send_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.umem = Some(umem);
        busy
    }

    fn handle(
        &mut self,
        umem: &mut Umem,
        now: u64,
        number: usize,
        mut frame: Frame,
        actions: &mut Actions,
    ) {
        let (headroom, len) = (frame.headroom(), frame.len());
        let whole = headroom + frame.capacity();
        if frame.grow_front(headroom).and_then(|()| frame.set_len(whole)).is_err() {
            umem.free(frame);
            return;
        }
        let buffer = umem.bytes_mut(&mut frame);
        let verdict = self.core.handle_frame(now, number as u16, buffer, (headroom, len), actions);
        let Verdict::Transmit { port, start, len } = verdict else {
            umem.free(frame);
            return;
        };
        let port = self.ports.get_mut(usize::from(port)).and_then(Option::as_mut);
        let cut = frame.shrink_front(start).and_then(|()| frame.set_len(len));
        let sent = match (port, cut) {
            (Some(port), Ok(())) => port.socket.send(frame),
            _ => Err(frame),
        };
        if let Err(frame) = sent {
            self.status.send_failed.fetch_add(1, Ordering::Relaxed);
            umem.free(frame);
        }
    }

    /// Does what the core asks for beside its verdicts.
    fn act(&mut self, umem: &mut Umem, actions: &mut Actions) {
        for action in actions.drain() {
            match action {
                Action::Probe { port, addr } => {
                    if let Some(interface) = self.shared.next_hops.load().kernel_index(port) {
                        self.prober.probe_neighbour(interface, addr);
                    }
                }
                Action::Send { port, frame } => self.send(umem, port, frame.bytes()),
            }
        }
    }

    /// Sends a frame that is not in packet memory yet.
    fn send(&mut self, umem: &mut Umem, port: u16, bytes: &[u8]) {
        let port = self.ports.get_mut(usize::from(port)).and_then(Option::as_mut);
        let sent = match (port, umem.alloc_with(bytes)) {
            (Some(port), Some(frame)) => port.socket.send(frame).map_err(Some),
            (_, frame) => Err(frame),
        };
        if let Err(frame) = sent {
            self.status.send_failed.fetch_add(1, Ordering::Relaxed);
            frame.into_iter().for_each(|frame| umem.free(frame));
        }
    }

    fn wait(&self) {
        let sockets = self.ports.iter().flatten();
        if let Err(error) = af_xdp::poll(sockets.map(|port| port.socket.as_fd()), POLL_MAX) {
            warn!(queue = self.queue, "cannot wait for packets: {error}");
            std::thread::sleep(POLL_MAX);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Beacon(interval) => self.beacon = interval,
            Command::Memory(umem) => self.umem = Some(umem),
            // An interface without this queue gets no socket.
            Command::AddPort(info) if self.queue >= info.queues => {}
            Command::AddPort(info) => {
                let now = clock::now_ns();
                let within = u64::try_from(BIND_WITHIN.as_nanos()).unwrap_or(u64::MAX);
                let (pause_ns, until_ns) = (BIND_PAUSE_NS, now.saturating_add(within));
                self.pending.push(Pending { info, next_ns: now, pause_ns, until_ns });
            }
            Command::RemovePort(number) => {
                self.pending.retain(|pending| pending.info.number != number);
                if let Some(port) = self.ports.get_mut(usize::from(number)) {
                    *port = None;
                }
                if self.pending.is_empty() && self.ports.iter().all(Option::is_none) {
                    self.umem = None;
                }
            }
        }
    }

    /// One attempt for each socket whose time has come.
    fn bind_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let now = clock::now_ns();
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.next_ns <= now {
                if self.try_bind(&pending.info, pending.until_ns <= now) {
                    continue;
                }
                pending.next_ns = now + pending.pause_ns;
                pending.pause_ns = (pending.pause_ns * 2).min(BIND_PAUSE_MAX_NS);
            }
            self.pending.push(pending);
        }
    }

    /// Binds and puts the socket into the steering program's map; says whether that is settled,
    /// well or not.
    fn try_bind(&mut self, info: &Arc<PortInfo>, last: bool) -> bool {
        let Some(umem) = &mut self.umem else {
            info.note_failure(self.queue, "no packet memory");
            return true;
        };
        let failed = |error: &dyn std::error::Error| {
            let mut why = error.to_string();
            if let Some(source) = error.source() {
                why = format!("{why}: {source}");
            }
            error!(interface = info.name, queue = self.queue, "no socket: {why}");
            info.note_failure(self.queue, &why);
            true
        };
        let socket = match Socket::try_bind(umem, info.interface, self.queue, BindMode::Auto) {
            Ok(socket) => socket,
            Err(BindError::Busy { .. }) if !last => return false,
            Err(BindError::Busy { interface, queue, .. }) => {
                let waited_ms = BIND_WITHIN.as_millis();
                return failed(&BindError::Busy { interface, queue, waited_ms });
            }
            Err(error) => return failed(&error),
        };
        match info.insert_socket(self.queue, &socket) {
            Ok(true) => {}
            // Closed meanwhile: its removal is on the way.
            Ok(false) => return true,
            Err(error) => return failed(&error),
        }
        let mode = socket.mode();
        let fallback = socket.fallback().unwrap_or_default().to_owned();
        info!(interface = info.name, queue = self.queue, %mode, fallback, "socket bound");
        if let Some(place) = self.ports.get_mut(usize::from(info.number)) {
            *place = Some(Port { socket, info: Arc::clone(info) });
            info.note_socket(self.queue, PortMode { mode, fallback });
        }
        true
    }

    /// A socket whose interface is gone is deaf, and nothing wakes for it.
    fn check_sockets(&mut self, now: u64) {
        if now < self.checked_ns.saturating_add(CHECK_EVERY_NS) {
            return;
        }
        self.checked_ns = now;
        for port in self.ports.iter().flatten() {
            if let Ok(Some(error)) = port.socket.take_error() {
                warn!(interface = port.info.name, queue = self.queue, "socket lost: {error}");
                port.info.note_failure(self.queue, &format!("its socket failed: {error}"));
            }
        }
    }
}
