//! 227 replies: what an FTP server says of itself its client reads of the VIP.
//!
//! Words of the reply make room for a longer address. Where they do not, the reply gets longer, and
//! numbers differ from its address on ([`LongerReply`]). What was changed once is known by its
//! number from then on, not by what a segment looks like, so that the server may send it again in
//! whatever segments: the address as a whole stands where its last octet is, and a segment that ends
//! within goes without its part, which the server sends again.
//!
//! Where replies may get longer they are judged once, in the order of the stream: what comes out of
//! order goes on without its payload, which the server sends again, and so does what is behind a
//! second longer reply before the client has acknowledged the first. How far they were judged is not
//! copied: a successor learns it from the first packet of either side.
//!
//! Guarantees: the client gets one stream, whatever is lost, repeated, cut, reordered or acknowledged
//! in part, and acknowledges what its server has sent. Peers are told of a longer reply before it
//! leaves; who takes over with that goes on with it. Not here: a reply that TCP cut in two. It goes on
//! as it is, and is counted, as by IPVS, which looks at single segments too.

use std::net::{IpAddr, Ipv4Addr};

use steadfast_packet::{
    Grown, Packet, PassiveReply, Transport, passive_text, rewrite_passive_reply, tcp_header,
    tcp_payload,
};

use crate::{
    Connection, Deltas, FlowKey, LongerReply, Reason, SyncHook, Target, cache::Way, frame::Frame,
    worker::Core,
};

/// Replies without room that are looked at in one segment; what is behind them waits.
const TIGHT_MAX: usize = 4;
/// What a packet with a longer reply may have at most, so that it never gets too big for its way.
//= RFC 791 section 3.1: all hosts must be prepared to accept datagrams of up to 576 octets
const ROOM: usize = 576;
/// Octets of the longest address.
const TEXT_MAX: usize = 15;
/// Numbers behind a longer reply from which on it is forgotten: half of all there are would lie before
/// it again.
const FAR: i32 = 1 << 30;

/// What is to become of a reply without room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Judged {
    /// It gets longer.
    Lengthen,
    /// It went out before as it is.
    Old,
    /// Not before the client has acknowledged the one before.
    Later,
}

/// The addresses of a reply: what its server says, and what its client reads.
#[derive(Clone, Copy)]
struct Addresses {
    real: Ipv4Addr,
    vip: Ipv4Addr,
}

/// The payload of a segment of the server: where it begins in the frame, and its number.
#[derive(Clone, Copy)]
struct Payload {
    at: usize,
    seq: u32,
}

impl Payload {
    fn seq_at(&self, at: usize) -> u32 {
        self.seq.wrapping_add(at.saturating_sub(self.at) as u32)
    }

    /// Where a number is, as seen from the first octet.
    fn behind(&self, seq: u32) -> i32 {
        seq.wrapping_sub(self.seq).cast_signed()
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Makes what an FTP server says on a control connection true for its client; gives what the
    /// packet is then.
    pub(crate) fn translate(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (way, connection, key, target): (Way, &Connection, &FlowKey, &Target),
        deltas: &mut Option<Deltas>,
    ) -> Result<Packet, Reason> {
        let (IpAddr::V4(real), IpAddr::V4(vip)) = (target.addr, key.vip) else {
            return Ok(*packet);
        };
        let addresses = Addresses { real, vip };
        let may_grow = text_len(vip) > text_len(real);
        if way == Way::In {
            if may_grow {
                self.hear_acknowledged(frame, packet, connection, deltas);
            }
            return Ok(*packet);
        }
        let at = tcp_payload(frame.received(), packet);
        let tcp = tcp_header(frame.received(), packet);
        let (Some(at), Some(tcp)) = (at, tcp) else { return Ok(*packet) };
        let payload = Payload { at, seq: tcp.seq.get() };
        if at == packet.end {
            return Ok(*packet);
        }
        if !may_grow {
            let whole = (at, None);
            if rewrite_passive_reply(frame.bytes(), packet, whole, real, vip) == PassiveReply::Unfit
            {
                self.counters.count_unfit_reply();
            }
            return Ok(*packet);
        }
        self.forget_far(payload.seq, connection, deltas);
        let packet = self.judge_all(frame, packet, payload, (connection, addresses), deltas)?;
        match deltas.and_then(|deltas| deltas.longer) {
            Some(longer) => put(frame, &packet, payload, longer.address, vip),
            None => Ok(packet),
        }
    }

    /// Judges the replies in a segment; what may not go yet is cut off.
    fn judge_all(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        payload: Payload,
        (connection, Addresses { real, vip }): (&Connection, Addresses),
        deltas: &mut Option<Deltas>,
    ) -> Result<Packet, Reason> {
        let judged = connection.judged().unwrap_or(payload.seq);
        if payload.behind(judged) < 0 {
            return match packet.fragment {
                Some(_) => Err(Reason::Fragment),
                None => Ok(frame.cut(packet, payload.at)),
            };
        }
        let is_new = |at: usize| payload.behind(judged) <= (at - payload.at) as i32;
        let (mut packet, mut from) = (*packet, payload.at);
        for tries in 0.. {
            if tries == TIGHT_MAX {
                packet = frame.cut(&packet, from);
                break;
            }
            let known = deltas.and_then(|deltas| deltas.longer).map(|longer| longer.address.at);
            let known = known.and_then(|at| usize::try_from(payload.behind(at)).ok());
            let known = known.map(|behind| payload.at + behind);
            let found = rewrite_passive_reply(frame.bytes(), &packet, (from, known), real, vip);
            if found == PassiveReply::Unfit && is_new(packet.end - 1) {
                self.counters.count_unfit_reply();
            }
            let PassiveReply::Tight { line, address } = found else { break };
            if packet.fragment.is_some() {
                return Err(Reason::Fragment);
            }
            let len = address.len();
            let by = text_len(vip).saturating_sub(len) as u8;
            let grown = Grown { at: payload.seq_at(address.start), len: len as u8, by };
            let fits = address.end + TEXT_MAX <= packet.l3 + ROOM;
            let verdict = match (is_new(line), fits) {
                (false, _) => Judged::Old,
                (true, false) => Judged::Later,
                (true, true) => self.lengthen(connection, deltas, grown),
            };
            from = address.end;
            if verdict == Judged::Later {
                packet = frame.cut(&packet, line);
                break;
            }
        }
        connection.note_judged(payload.seq_at(packet.end));
        Ok(packet)
    }

    /// Notes that a reply gets longer, if it may, and tells peers.
    fn lengthen(
        &self,
        connection: &Connection,
        deltas: &mut Option<Deltas>,
        address: Grown,
    ) -> Judged {
        let mut judged = Judged::Later;
        let now = self.shared.table.change_deltas(connection, |now| {
            let before = now.longer.unwrap_or_default();
            judged = match address.at.wrapping_sub(before.address.at).cast_signed() {
                _ if now.longer.is_none() => Judged::Lengthen,
                1.. if before.is_heard => Judged::Lengthen,
                1.. => Judged::Later,
                _ => Judged::Old,
            };
            let to_client = now.to_client.wrapping_add(address.by.into());
            let longer = Some(LongerReply { address, is_heard: false });
            (judged == Judged::Lengthen).then_some(Deltas { to_client, longer, ..now })
        });
        *deltas = (now != Deltas::default()).then_some(now);
        if judged == Judged::Lengthen {
            // It ended meanwhile.
            if now.longer.is_none_or(|longer| longer.address != address) {
                return Judged::Later;
            }
            self.counters.count_longer_reply();
            self.hook.renumbered(connection);
        }
        judged
    }

    /// Notes how far the client has acknowledged what its server says.
    fn hear_acknowledged(
        &self,
        frame: &Frame<'_>,
        packet: &Packet,
        connection: &Connection,
        deltas: &mut Option<Deltas>,
    ) {
        let Transport::Tcp { flags, .. } = packet.transport else { return };
        let Some(tcp) = tcp_header(frame.received(), packet).filter(|_| flags.ack()) else {
            return;
        };
        let known = deltas.unwrap_or_default();
        let ack = tcp.ack.get().wrapping_sub(known.to_client);
        let Some(longer) = known.longer else { return connection.note_judged(ack) };
        connection.note_judged(longer.address.back(ack, false));
        let is_behind = ack.wrapping_sub(longer.address.end()).cast_signed() >= 0;
        if is_behind && !longer.is_heard {
            let heard = Some(LongerReply { is_heard: true, ..longer });
            *deltas = Some(self.shared.table.change_deltas(connection, |now| {
                (now.longer == Some(longer)).then_some(Deltas { longer: heard, ..now })
            }));
        }
    }

    /// Forgets a longer reply that lies far back.
    fn forget_far(&self, seq: u32, connection: &Connection, deltas: &mut Option<Deltas>) {
        let Some(Deltas { longer: Some(longer), .. }) = *deltas else { return };
        if seq.wrapping_sub(longer.address.at).cast_signed() < FAR {
            return;
        }
        *deltas = Some(self.shared.table.change_deltas(connection, |now| {
            (now.longer == Some(longer)).then_some(Deltas { longer: None, ..now })
        }));
        self.hook.renumbered(connection);
    }
}

/// Puts the VIP into a segment where a longer reply has its address.
fn put(
    frame: &mut Frame<'_>,
    packet: &Packet,
    payload: Payload,
    address: Grown,
    vip: Ipv4Addr,
) -> Result<Packet, Reason> {
    let (first, end) = (payload.behind(address.at).max(0), payload.behind(address.end()));
    let have = (packet.end - payload.at) as i32;
    if end <= 0 || first >= have {
        return Ok(*packet);
    }
    if packet.fragment.is_some() {
        return Err(Reason::Fragment);
    }
    let mut packet = *packet;
    if packet.len() + TEXT_MAX > ROOM {
        packet = frame.cut(&packet, (packet.l3 + ROOM - TEXT_MAX).max(payload.at));
    }
    let octets = payload.at + first as usize..payload.at + end as usize;
    if octets.end > packet.end {
        return Ok(frame.cut(&packet, octets.start));
    }
    frame.splice(&packet, octets, passive_text(vip).as_bytes()).map_err(|_| Reason::NoSpace)
}

/// Octets of an address in a reply.
fn text_len(addr: Ipv4Addr) -> usize {
    let digits = |octet: u8| 1 + usize::from(octet > 9) + usize::from(octet > 99);
    addr.octets().map(digits).iter().sum::<usize>() + 3
}
