//! The UDP probe: numbered datagrams at a steady rate, one socket, two threads of their own, so
//! that the sessions cannot make it late.
//!
//! What it measures: datagrams never answered, and the longest time between two answers. The
//! latter includes what the machine does to the probe itself; it is an upper bound.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    MS, SECOND,
    judge::{FaultWindow, longest_gap},
    now_ns, record,
    wire::ProbeReport,
};

/// Datagrams one probe may send: ten minutes at 1 kHz. Beyond that it stops.
const DATAGRAMS_MAX: usize = 600_000;

/// Socket buffer asked for; the kernel may give less.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// The receiver wakes this often to see whether it shall stop.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(50);

/// A running probe.
#[derive(Debug)]
pub struct Probe {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
    errors: AtomicU64,
    log: Mutex<Log>,
}

/// What was sent and what came back.
#[derive(Debug, Default)]
pub struct Log {
    /// By sequence number: when it was sent.
    pub sent_ns: Vec<u64>,
    /// Each first answer: sequence number and when it came, in order of coming.
    pub answers: Vec<(usize, u64)>,
    /// By sequence number: whether it was answered.
    pub answered: Vec<bool>,
    /// Names of servers, in order of appearance.
    pub servers: Vec<String>,
}

impl Probe {
    /// Starts to send `rate_hz` datagrams a second to `target`.
    ///
    /// # Errors
    /// When the socket or a thread cannot be made.
    pub fn start(target: SocketAddr, rate_hz: u32) -> io::Result<Self> {
        let any: SocketAddr = if target.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = Arc::new(UdpSocket::bind(any)?);
        // Only a wish: a smaller buffer works too.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
        socket.connect(target)?;
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        let shared = Arc::new(Shared::default());
        let period = SECOND / u64::from(rate_hz.max(1));
        let sender = {
            let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
            std::thread::Builder::new()
                .name("probe-send".to_owned())
                .spawn(move || send(&shared, &socket, period))?
        };
        let receiver = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("probe-receive".to_owned())
                .spawn(move || receive(&shared, &socket))?
        };
        Ok(Self { shared, threads: vec![sender, receiver] })
    }

    /// The server that answered first, if one has.
    #[must_use]
    pub fn first_server(&self) -> Option<String> {
        self.shared.log().servers.first().cloned()
    }

    /// Sends no more; answers are still taken.
    pub fn stop_sending(&self) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
    }

    /// Ends the probe and says what it saw.
    #[must_use]
    pub fn finish(self, fault: FaultWindow) -> ProbeReport {
        self.stop_sending();
        self.shared.stop_receiving.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A panic in a probe thread would show as loss; there is nothing to save here.
            let _ = thread.join();
        }
        let errors = self.shared.errors.load(Ordering::Relaxed);
        self.shared.log().report(fault, errors)
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Sums up. Counting begins with the first datagram that was answered: what was sent before
    /// the VIP answered at all says nothing about a fault.
    #[must_use]
    pub fn report(&self, fault: FaultWindow, socket_errors: u64) -> ProbeReport {
        let Some(first) = self.answered.iter().position(|&a| a) else {
            let sent = self.sent_ns.len() as u64;
            return ProbeReport { sent, lost: sent, socket_errors, ..ProbeReport::default() };
        };
        let lost = |from: usize, until_ns: u64| {
            let pairs = self.sent_ns.iter().zip(&self.answered).skip(from);
            pairs.filter(|&(&at, &answered)| !answered && at < until_ns).count() as u64
        };
        let sent = (self.sent_ns.len() - first) as u64;
        let all_lost = lost(first, u64::MAX);
        let until_ns = self.sent_ns.last().copied().unwrap_or(0);
        let came = self.answers.iter().map(|&(_, at)| at);
        ProbeReport {
            sent,
            answered: sent - all_lost,
            lost: all_lost,
            lost_before_fault: lost(first, fault.begin_ns),
            silent_ns: longest_gap(came, fault.begin_ns, until_ns).unwrap_or(0),
            servers: self.servers.clone(),
            socket_errors,
        }
    }
}

fn send(shared: &Shared, socket: &UdpSocket, period_ns: u64) {
    let mut due = now_ns();
    for sequence in 0..DATAGRAMS_MAX {
        if shared.stop_sending.load(Ordering::Relaxed) {
            return;
        }
        {
            let mut log = shared.log();
            log.sent_ns.push(now_ns());
            log.answered.push(false);
        }
        if socket.send(&record::record(0, sequence as u64)).is_err() {
            shared.errors.fetch_add(1, Ordering::Relaxed);
        }
        due += period_ns;
        let now = now_ns();
        if due > now {
            std::thread::sleep(Duration::from_nanos(due - now));
        } else if now - due > 100 * MS {
            // The machine stood still: do not make up for it with a burst.
            due = now;
        }
    }
}

fn receive(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while !shared.stop_receiving.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                let now = now_ns();
                handle_answer(&mut shared.log(), &buffer[..n], now);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => {
                shared.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn handle_answer(log: &mut Log, bytes: &[u8], now_ns: u64) {
    let Some((name, line)) = record::split_answer(bytes) else { return };
    if !record::checksum_matches(line) {
        return;
    }
    let sequence = line.get(7..17).and_then(|s| std::str::from_utf8(s).ok());
    let Some(sequence) = sequence.and_then(|s| s.parse::<usize>().ok()) else { return };
    match log.answered.get_mut(sequence) {
        // An answer to nothing, or the second one to the same datagram.
        None | Some(true) => return,
        Some(answered) => *answered = true,
    }
    log.answers.push((sequence, now_ns));
    if !log.servers.iter().any(|s| s == name) {
        log.servers.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(sent: &[u64], answers: &[(usize, u64)]) -> Log {
        let mut log =
            Log { sent_ns: sent.to_vec(), answered: vec![false; sent.len()], ..Log::default() };
        for &(sequence, at) in answers {
            let line = record::record(0, sequence as u64);
            handle_answer(&mut log, &record::answer("s1", &line), at);
        }
        log
    }

    #[test]
    fn loss_and_silence_are_counted_from_the_first_answer_on() {
        let sent: Vec<u64> = (0..10).map(|i| i * 10).collect();
        // 0 comes before the VIP is up; 4, 5 and 6 fall into the outage; 8 is lost before nothing.
        let log = log(&sent, &[(1, 11), (2, 21), (3, 31), (7, 71), (9, 91)]);
        let report = log.report(FaultWindow { begin_ns: 45, ended_ns: 46 }, 3);
        assert_eq!((report.sent, report.answered, report.lost), (9, 5, 4));
        assert_eq!(report.lost_before_fault, 1);
        assert_eq!(report.silent_ns, 40);
        assert_eq!(report.servers, ["s1"]);
        assert_eq!(report.socket_errors, 3);
    }

    #[test]
    fn a_vip_that_never_came_back_is_silent_to_the_end() {
        let sent: Vec<u64> = (0..10).map(|i| i * 10).collect();
        let log = log(&sent, &[(0, 1), (1, 11)]);
        let report = log.report(FaultWindow { begin_ns: 15, ended_ns: 16 }, 0);
        assert_eq!(report.silent_ns, 90 - 11);
        assert_eq!(report.lost, 8);
    }

    #[test]
    fn answers_to_nothing_twice_or_damaged_do_not_count() {
        let mut log = log(&[0, 10], &[(0, 1), (0, 2), (7, 3)]);
        let mut bad = record::record(0, 1);
        bad[30] ^= 1;
        handle_answer(&mut log, &record::answer("s1", &bad), 4);
        assert_eq!(log.answers, [(0, 1)]);
    }
}
