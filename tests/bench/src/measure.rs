//! What is measured, one world at a time.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::ensure;
use steadfast_dataplane::FlowKey;
use steadfast_packet::parse;

use crate::{
    draw::{Draw, Drawer, Random},
    world::{ACK, RING, RST, SYN, SYN_ACK, Way, World},
};

/// Timers looked at per call, as in the daemon.
const ADVANCE_BUDGET: usize = 4096;

/// Times per packet, one for each turn of the ring. Their median counts.
#[derive(Debug, Default)]
struct Turns(Vec<f64>);

impl Turns {
    fn push(&mut self, took: Duration, packets: usize) {
        self.0.push(took.as_nanos() as f64 / packets as f64);
    }

    fn median_ns(mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0.get(self.0.len() / 2).copied().unwrap_or(0.0)
    }
}

/// Resident memory in bytes (proc(5), `statm`, second field, pages).
pub(crate) fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4096)
}

impl World {
    /// Opens flows `from..to` and brings them to ESTABLISHED.
    pub(crate) fn fill(&mut self, from: u64, to: u64) -> anyhow::Result<()> {
        // A ring at a time: the half-open ones have places for a part of all only.
        let mut flow = from;
        while flow < to {
            let next = to.min(flow + RING as u64);
            self.open(flow, next, SYN)?;
            self.open(flow, next, ACK)?;
            flow = next;
        }
        Ok(())
    }

    /// Spreads the packet counts evenly, so that marks come at the rate of a long run.
    pub(crate) fn age(&self, flows: u64) {
        let mut random = Random::new(7);
        for flow in 0..flows {
            if let Some(found) = self.shared.table.find(&self.key(flow)) {
                found.set_in_pkts(random.below(5000));
            }
        }
    }

    fn open(&mut self, from: u64, to: u64, flags: u8) -> anyhow::Result<()> {
        let mut flow = from;
        while flow < to {
            let count = ((to - flow) as usize).min(RING);
            for place in 0..count {
                self.put(place, flow + place as u64, Way::In, flags);
            }
            let sent = self.turn(Way::In, count);
            ensure!(sent == count, "{sent} of {count} packets went out");
            flow += count as u64;
        }
        Ok(())
    }

    /// Packets of established connections.
    pub(crate) fn established(
        &mut self,
        draw: Draw,
        way: Way,
        flows: u64,
        packets: usize,
    ) -> anyhow::Result<f64> {
        self.set_peers()?;
        let mut drawer = Drawer::new(draw, flows, 11);
        let mut turns = Turns::default();
        // The first tenth warms the caches up.
        let warm = (packets / RING / 10).max(1);
        for round in 0..packets.div_ceil(RING) + warm {
            let flags = if way == Way::Out && round == 0 { SYN_ACK } else { ACK };
            for place in 0..RING {
                let flow = drawer.next();
                self.put(place, flow, way, flags);
            }
            let start = Instant::now();
            let sent = self.turn(way, RING);
            let elapsed = start.elapsed();
            ensure!(sent == RING, "{sent} of {RING} packets went out");
            if round >= warm {
                turns.push(elapsed, RING);
            }
        }
        let (waiting, overflows) = self.marks();
        ensure!(overflows == 0, "a lane of the dirty set overflowed");
        ensure!(way == Way::Out || packets < 10_000 || waiting > 0, "nothing was marked");
        Ok(turns.median_ns())
    }

    /// Opening packets: nanoseconds per new connection.
    pub(crate) fn opening(&mut self, from: u64, count: u64) -> anyhow::Result<f64> {
        self.set_peers()?;
        self.timed(from, count, SYN)
    }

    /// Connections opened by SYN and ACK, reset, and expired: nanoseconds for all of it.
    pub(crate) fn cycle(&mut self, from: u64, count: u64) -> anyhow::Result<f64> {
        self.set_peers()?;
        let mut ns = 0.0;
        for flags in [SYN, ACK, RST] {
            ns += self.timed(from, count, flags)?;
        }
        let before = self.shared.table.len();
        self.now_ns += 15_000_000_000;
        let hook = steadfast_dataplane::NoHook;
        let start = Instant::now();
        while self.shared.advance(self.now_ns, ADVANCE_BUDGET, &hook).more {}
        ns += start.elapsed().as_nanos() as f64 / count as f64;
        let gone = before - self.shared.table.len();
        ensure!(gone as u64 == count, "{gone} of {count} connections expired");
        Ok(ns)
    }

    fn timed(&mut self, from: u64, count: u64, flags: u8) -> anyhow::Result<f64> {
        let (mut turns, mut handled) = (Turns::default(), 0);
        while handled < count {
            let burst = ((count - handled) as usize).min(RING);
            for place in 0..burst {
                self.put(place, from + handled + place as u64, Way::In, flags);
            }
            let start = Instant::now();
            let sent = self.turn(Way::In, burst);
            turns.push(start.elapsed(), burst);
            ensure!(sent == burst, "{sent} of {burst} packets went out");
            handled += burst as u64;
        }
        Ok(turns.median_ns())
    }

    /// Reading the headers and their checksum alone.
    pub(crate) fn parsing(&mut self, flows: u64, packets: usize) -> f64 {
        let mut drawer = Drawer::new(Draw::Uniform, flows, 11);
        let mut turns = Turns::default();
        let rounds = packets.div_ceil(RING);
        for _ in 0..rounds {
            for place in 0..RING {
                let flow = drawer.next();
                self.put(place, flow, Way::In, ACK);
            }
            let start = Instant::now();
            for place in 0..RING {
                let _ = black_box(parse(self.frame(place)));
            }
            turns.push(start.elapsed(), RING);
        }
        turns.median_ns()
    }

    /// A look-up in the table alone.
    pub(crate) fn finding(&self, flows: u64, packets: usize) -> f64 {
        let mut drawer = Drawer::new(Draw::Uniform, flows, 13);
        let mut turns = Turns::default();
        let rounds = packets.div_ceil(RING);
        for _ in 0..rounds {
            let keys: Vec<FlowKey> = (0..RING).map(|_| self.key(drawer.next())).collect();
            let start = Instant::now();
            for key in &keys {
                black_box(self.shared.table.find(key).is_some());
            }
            turns.push(start.elapsed(), RING);
        }
        turns.median_ns()
    }
}
