//! A worker thread: the AF_XDP sockets of one queue on every data interface.
//!
//! Guarantees: every frame taken from a socket is sent or returned to the pool; the thread never
//! waits for anything but packets, and never longer than [`POLL_MAX`]. What a frame means is
//! decided by `steadfast_dataplane::Worker`.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use af_xdp::{BindMode, Frame, RECEIVE_BURST_MAX, Socket, Umem, UmemConfig};
use steadfast_dataplane::{Action, Actions, Shared, Verdict, Worker, WorkerCounters};
use steadfast_replication::ReplicationHook;
use tracing::{debug, error, info, warn};

use super::port::{PortInfo, PortMode};
use crate::{clock, kernel::Prober, priority};

/// The longest wait for packets; it bounds how late a stop or a new interface is seen.
const POLL_MAX: Duration = Duration::from_millis(10);

/// Frames per socket in the worker's packet memory: fill ring, TX ring, and some under way.
const FRAMES_PER_PORT: u32 = 8192;

/// Interfaces of one worker.
pub(crate) const PORTS_MAX: usize = 8;

/// What a worker is told.
pub(crate) enum Command {
    /// Bind a socket on this interface; its number is the next one.
    AddPort(Arc<PortInfo>),
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
    pub(crate) commands: mpsc::Sender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts the worker of `queue`.
    ///
    /// # Errors
    /// When no thread or packet memory can be had.
    pub(crate) fn start(
        queue: u32,
        shared: Arc<Shared>,
        hook: ReplicationHook,
        prober: Prober,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let umem = Umem::new(UmemConfig {
            frames: FRAMES_PER_PORT * PORTS_MAX as u32 / 2,
            ..UmemConfig::default()
        })?;
        let core = Worker::new(queue as usize, shared, hook);
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
            umem,
            ports: Vec::new(),
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

struct Running {
    queue: u32,
    core: Worker<ReplicationHook>,
    umem: Umem,
    ports: Vec<Option<Socket>>,
    prober: Prober,
    status: Arc<WorkerStatus>,
    beacon: Duration,
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
            let now = clock::now_ns();
            self.judge_gap(now, before);
            before = now;
            self.status.turned_ns.store(now, Ordering::Release);
            let busy = self.turn(now, &mut frames, &mut actions);
            for action in actions.drain() {
                let Action::Probe { addr, .. } = action;
                self.prober.probe(addr);
            }
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
            self.core.discard_arp_until(now.saturating_add(mute));
        }
    }

    /// One round over all sockets; says whether anything came.
    fn turn(&mut self, now: u64, frames: &mut Vec<Frame>, actions: &mut Actions) -> bool {
        let mut busy = false;
        for port in 0..self.ports.len() {
            let Some(socket) = &mut self.ports[port] else { continue };
            socket.complete(&mut self.umem);
            busy |= socket.receive(frames) > 0;
            socket.refill(&mut self.umem);
            for frame in frames.drain(..) {
                self.handle(now, port, frame, actions);
            }
        }
        for socket in self.ports.iter_mut().flatten() {
            if let Err(error) = socket.flush() {
                debug!(queue = self.queue, ifindex = socket.ifindex(), "cannot send: {error}");
                self.status.send_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        busy
    }

    fn handle(&mut self, now: u64, port: usize, mut frame: Frame, actions: &mut Actions) {
        let len = frame.len();
        let capacity = frame.capacity();
        if frame.set_len(capacity).is_err() {
            self.umem.free(frame);
            return;
        }
        let buffer = self.umem.bytes_mut(&mut frame);
        let verdict = self.core.handle_frame(now, port as u16, buffer, len, actions);
        let Verdict::Transmit { port, len } = verdict else {
            self.umem.free(frame);
            return;
        };
        let socket = self.ports.get_mut(usize::from(port)).and_then(Option::as_mut);
        let sent = match (socket, frame.set_len(len)) {
            (Some(socket), Ok(())) => socket.send(frame),
            _ => Err(frame),
        };
        if let Err(frame) = sent {
            self.status.send_failed.fetch_add(1, Ordering::Relaxed);
            self.umem.free(frame);
        }
    }

    fn wait(&self) {
        let sockets = self.ports.iter().flatten();
        if let Err(error) = af_xdp::poll(sockets.map(AsFd::as_fd), POLL_MAX) {
            warn!(queue = self.queue, "cannot wait for packets: {error}");
            std::thread::sleep(POLL_MAX);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Beacon(interval) => self.beacon = interval,
            Command::AddPort(port) => {
                let socket = self.bind(&port);
                self.ports.push(socket);
            }
        }
    }

    /// Binds and puts the socket into the steering program's map. An interface without this queue
    /// gets none; the numbering of the ports must stay the same on all workers.
    fn bind(&mut self, port: &PortInfo) -> Option<Socket> {
        if self.queue >= port.queues {
            return None;
        }
        let bound = Socket::bind(&mut self.umem, port.interface, self.queue, BindMode::Auto);
        let socket = match bound {
            Ok(socket) => socket,
            Err(error) => {
                error!(interface = port.name, queue = self.queue, "no socket: {error}");
                port.note_failure(self.queue, &error.to_string());
                return None;
            }
        };
        match port.steering().insert_socket(self.queue, &socket) {
            Ok(()) => {
                let mode = socket.mode();
                let fallback = socket.fallback().unwrap_or_default().to_owned();
                info!(interface = port.name, queue = self.queue, %mode, fallback, "socket bound");
                port.note_socket(self.queue, PortMode { mode, fallback });
                Some(socket)
            }
            Err(error) => {
                error!(interface = port.name, queue = self.queue, "not steered: {error}");
                port.note_failure(self.queue, &error.to_string());
                None
            }
        }
    }
}
