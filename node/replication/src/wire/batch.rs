//! A batch: group headers, then records, deletes and the marks of snapshots, in order.

use std::net::{IpAddr, SocketAddr};

use steadfast_dataplane::{Deltas, Grown, LongerReply};
use steadfast_model::{Epoch, GroupId, NodeId, ServerId, ServiceId};

use super::{
    BATCH_BYTES_MAX, GROUPS_PER_BATCH_MAX, TYPE_BATCH, WireError,
    cursor::{Reader, put_varint, unzigzag, zigzag},
};
use crate::{
    Key, Record,
    record::{FLAGS_MAX, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, STATE_MAX},
};

/// Bytes of the longest group header: five varints and the flags.
pub(super) const GROUP_HEADER_BYTES_MAX: usize = 5 + 5 + 10 + 5 + 5 + 1;
/// Bytes before the group headers: type, five varints.
const BATCH_HEADER_BYTES_MAX: usize = 1 + 10 + 10 + 10 + 10 + 2;
/// Bytes of the longest item: an IPv6 record of an unusual protocol, with all that there is more.
const ITEM_BYTES_MAX: usize = 1 + 2 + 1 + 1 + 18 + 18 + 5 + 5 + 10 + 1 + 18 + DELTA_BYTES;
/// Bytes of the deltas of a record.
const DELTA_BYTES: usize = 4 + 4 + 4 + 2 + 4 + 6;

const FLAG_DONATED: u8 = 1;

const KIND_RECORD: u8 = 0;
const KIND_DELETE: u8 = 1;
const KIND_BEGIN: u8 = 2;
const KIND_END: u8 = 3;
const KIND_SWEEP: u8 = 4;
const KIND_DONATION_END: u8 = 5;
/// A record with more to it: see [`MORE_LOCAL`].
const KIND_LONG_RECORD: u8 = 6;
const HEAD_KIND: u8 = 0x07;
pub(super) const HEAD_CLIENT_V6: u8 = 0x08;
pub(super) const HEAD_VIP_V6: u8 = 0x10;
const HEAD_PROTOCOL_SHIFT: u32 = 5;
/// The item has the group header of the one before it, and no index.
const HEAD_SAME: u8 = 0x80;
const HEAD_PROTOCOL: u8 = 0x03;
/// A long record has a local address and port, of the family of the VIP. What bits that are not known
/// stand for has a length that is not known: such a batch is refused.
const MORE_LOCAL: u8 = 1;
/// It has deltas.
const MORE_DELTAS: u8 = 2;
/// Its deltas say where a header is that the server may not have.
const MORE_HEADER: u8 = 4;
/// Its deltas say which reply of its server got longer.
const MORE_LONGER: u8 = 8;
/// Of the growth of a reply: its client has acknowledged it.
const LONGER_IS_HEARD: u8 = 0x80;
/// The most octets of an address in a reply.
const ADDRESS_MAX: u8 = 15;

/// Under which authority the items that point here were sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GroupHeader {
    /// The group.
    pub group: GroupId,
    /// The sender's epoch, or the one it was deposed from.
    pub epoch: Epoch,
    /// Sent by a node that does not hold the group.
    pub donated: bool,
}

/// One thing said in a batch; `header` is an index into [`Batch::groups`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Item {
    /// The current state of a connection.
    Record {
        /// Index of its group header.
        header: u8,
        /// The state.
        record: Record,
    },
    /// A connection is gone.
    Delete {
        /// Index of its group header.
        header: u8,
        /// Which.
        key: Key,
        /// Which life of it.
        incarnation: u64,
    },
    /// A snapshot of the group begins.
    Begin {
        /// Index of its group header.
        header: u8,
        /// Its number.
        snapshot: u64,
    },
    /// Everything the sender had at the beginning has been sent.
    End {
        /// Index of its group header.
        header: u8,
        /// Its number.
        snapshot: u64,
    },
    /// What that snapshot did not refresh may go.
    Sweep {
        /// Index of its group header.
        header: u8,
        /// Its number.
        snapshot: u64,
    },
    /// The donor has sent all it had.
    DonationEnd {
        /// Index of its group header.
        header: u8,
    },
}

impl Item {
    /// Index of its group header.
    #[must_use]
    pub fn header(&self) -> u8 {
        match self {
            Self::Record { header, .. }
            | Self::Delete { header, .. }
            | Self::Begin { header, .. }
            | Self::End { header, .. }
            | Self::Sweep { header, .. }
            | Self::DonationEnd { header } => *header,
        }
    }
}

/// A decoded batch. Every item's header index is valid.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// Counts the batches of a stream from 1.
    pub seq: u64,
    /// When it was written, by the sender's clock.
    pub sent_ms: u64,
    /// How long the oldest change that is still unsent has waited.
    pub age_ms: u64,
    /// The groups that items refer to.
    pub groups: Vec<GroupHeader>,
    /// Empty: a heartbeat.
    pub items: Vec<Item>,
}

impl Batch {
    pub(super) fn decode(mut r: Reader<'_>) -> Result<Self, WireError> {
        let seq = r.varint("seq")?;
        let sent_ms = r.varint("time")?;
        let age_ms = r.varint("age")?;
        let base = r.varint("base")?;
        let count = r.count("group headers", GROUPS_PER_BATCH_MAX)?;
        let mut groups = Vec::with_capacity(count.min(r.remaining()));
        for _ in 0..count {
            groups.push(decode_group(&mut r)?);
        }
        let mut items = Vec::new();
        let mut header = None;
        while !r.is_empty() {
            let item = decode_item(&mut r, base, &groups, header)?;
            header = Some(item.header());
            items.push(item);
        }
        Ok(Self { seq, sent_ms, age_ms, groups, items })
    }
}

pub(super) fn encode_group(out: &mut Vec<u8>, header: &GroupHeader) {
    let GroupHeader { group, epoch, donated } = header;
    put_varint(out, u64::from(group.0));
    put_varint(out, u64::from(epoch.generation));
    put_varint(out, epoch.grant_index);
    put_varint(out, u64::from(epoch.claim));
    put_varint(out, u64::from(epoch.node.0));
    out.push(if *donated { FLAG_DONATED } else { 0 });
}

pub(super) fn decode_group(r: &mut Reader<'_>) -> Result<GroupHeader, WireError> {
    let group = GroupId(r.varint_u32("group")?);
    let epoch = Epoch {
        generation: r.varint_u32("generation")?,
        grant_index: r.varint("grant")?,
        claim: r.varint_u32("claim")?,
        node: NodeId(r.varint_u32("node")?),
    };
    let flags = r.u8("group flags")?;
    if flags & !FLAG_DONATED != 0 {
        return Err(WireError::Range { what: "group flags", got: u64::from(flags) });
    }
    Ok(GroupHeader { group, epoch, donated: flags & FLAG_DONATED != 0 })
}

fn decode_item(
    r: &mut Reader<'_>,
    base: u64,
    groups: &[GroupHeader],
    last: Option<u8>,
) -> Result<Item, WireError> {
    let at = r.position();
    let mut head = r.u8("item")?;
    let header = match last {
        Some(last) if head & HEAD_SAME != 0 => u64::from(last),
        None if head & HEAD_SAME != 0 => return Err(WireError::Item { got: head, at }),
        _ => r.varint("header index")?,
    };
    head &= !HEAD_SAME;
    let range = WireError::Range { what: "header index", got: header };
    let group = groups.get(usize::try_from(header).map_err(|_| range)?).ok_or(range)?.group;
    let header = u8::try_from(header).map_err(|_| range)?;
    let kind = head & HEAD_KIND;
    let has_key = matches!(kind, KIND_RECORD | KIND_DELETE | KIND_LONG_RECORD);
    if !has_key && head != kind {
        return Err(WireError::Item { got: head, at });
    }
    match kind {
        KIND_RECORD | KIND_LONG_RECORD => {
            let protocol = decode_protocol(r, head)?;
            let bits = r.u8("state")?;
            let key = decode_key(r, head, protocol)?;
            let service = ServiceId(r.varint_u32("service")?);
            let server = ServerId(r.varint_u32("server")?);
            let incarnation = decode_incarnation(r, base)?;
            let (state, flags) = (bits % STATE_MAX, bits / STATE_MAX);
            let More { local, deltas } = match kind {
                KIND_LONG_RECORD => decode_more(r, head)?,
                _ => More::default(),
            };
            let record =
                Record { key, group, service, server, incarnation, state, flags, local, deltas };
            Ok(Item::Record { header, record })
        }
        KIND_DELETE => {
            let protocol = decode_protocol(r, head)?;
            let key = decode_key(r, head, protocol)?;
            Ok(Item::Delete { header, key, incarnation: decode_incarnation(r, base)? })
        }
        KIND_BEGIN => Ok(Item::Begin { header, snapshot: r.varint("snapshot")? }),
        KIND_END => Ok(Item::End { header, snapshot: r.varint("snapshot")? }),
        KIND_SWEEP => Ok(Item::Sweep { header, snapshot: r.varint("snapshot")? }),
        KIND_DONATION_END => Ok(Item::DonationEnd { header }),
        _ => Err(WireError::Item { got: head, at }),
    }
}

fn decode_protocol(r: &mut Reader<'_>, head: u8) -> Result<u8, WireError> {
    match (head >> HEAD_PROTOCOL_SHIFT) & HEAD_PROTOCOL {
        0 => Ok(PROTOCOL_TCP),
        1 => Ok(PROTOCOL_UDP),
        2 => Ok(PROTOCOL_SCTP),
        _ => r.u8("protocol"),
    }
}

pub(super) fn decode_key(r: &mut Reader<'_>, head: u8, protocol: u8) -> Result<Key, WireError> {
    let (client, client_port) = decode_end(r, head & HEAD_CLIENT_V6 != 0, "client")?;
    let (vip, vip_port) = decode_end(r, head & HEAD_VIP_V6 != 0, "vip")?;
    Ok(Key { protocol, client, client_port, vip, vip_port })
}

fn decode_end(
    r: &mut Reader<'_>,
    v6: bool,
    what: &'static str,
) -> Result<(IpAddr, u16), WireError> {
    let address =
        if v6 { IpAddr::from(r.array::<16>(what)?) } else { IpAddr::from(r.array::<4>(what)?) };
    Ok((address, u16::from_be_bytes(r.array("port")?)))
}

/// What a long record has more than another.
#[derive(Default)]
struct More {
    local: Option<SocketAddr>,
    deltas: Option<Deltas>,
}

fn decode_more(r: &mut Reader<'_>, head: u8) -> Result<More, WireError> {
    let more = r.u8("more")?;
    let is_alone = more & MORE_DELTAS == 0 && more & (MORE_HEADER | MORE_LONGER) != 0;
    if is_alone || more & !(MORE_LOCAL | MORE_DELTAS | MORE_HEADER | MORE_LONGER) != 0 {
        return Err(WireError::Range { what: "more of a record", got: u64::from(more) });
    }
    let mut found = More::default();
    if more & MORE_LOCAL != 0 {
        let (address, port) = decode_end(r, head & HEAD_VIP_V6 != 0, "local address")?;
        found.local = Some(SocketAddr::new(address, port));
    }
    if more & MORE_DELTAS != 0 {
        found.deltas = Some(decode_deltas(r, more)?);
    }
    Ok(found)
}

fn decode_deltas(r: &mut Reader<'_>, more: u8) -> Result<Deltas, WireError> {
    let mut number = || r.array("deltas").map(u32::from_be_bytes);
    let (to_client, to_server, timestamps) = (number()?, number()?, number()?);
    let [windows_to_client, windows_to_server] = r.array("windows")?.map(u8::cast_signed);
    let header_at = match more & MORE_HEADER != 0 {
        true => Some(u32::from_be_bytes(r.array("header")?)),
        false => None,
    };
    let longer = match more & MORE_LONGER != 0 {
        true => Some(decode_longer(r)?),
        false => None,
    };
    Ok(Deltas {
        to_client,
        to_server,
        timestamps,
        windows_to_client,
        windows_to_server,
        header_at,
        longer,
    })
}

fn decode_longer(r: &mut Reader<'_>) -> Result<LongerReply, WireError> {
    let at = u32::from_be_bytes(r.array("longer reply")?);
    let [len, growth] = r.array("longer reply")?;
    let by = growth & !LONGER_IS_HEARD;
    if len > ADDRESS_MAX || by > ADDRESS_MAX {
        let got = u64::from(u16::from_be_bytes([len, by]));
        return Err(WireError::Range { what: "length and growth of a reply", got });
    }
    let is_heard = growth & LONGER_IS_HEARD != 0;
    Ok(LongerReply { address: Grown { at, len, by }, is_heard })
}

fn decode_incarnation(r: &mut Reader<'_>, base: u64) -> Result<u64, WireError> {
    Ok(base.wrapping_add_signed(unzigzag(r.varint("incarnation")?)))
}

/// Builds one batch within a bound of bytes.
#[derive(Debug)]
pub struct BatchWriter {
    room: usize,
    groups: Vec<GroupHeader>,
    base: Option<u64>,
    last: Option<usize>,
    items: Vec<u8>,
    count: usize,
}

impl BatchWriter {
    /// A writer whose batch takes no more than `room` bytes (at most [`BATCH_BYTES_MAX`]).
    #[must_use]
    pub fn new(room: usize) -> Self {
        let room = room.min(BATCH_BYTES_MAX);
        Self { room, groups: Vec::new(), base: None, last: None, items: Vec::new(), count: 0 }
    }

    /// Whether one more key fits, whatever it is: a delete and a record.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.groups.len() < GROUPS_PER_BATCH_MAX
            && BATCH_HEADER_BYTES_MAX
                + (self.groups.len() + 1) * GROUP_HEADER_BYTES_MAX
                + self.items.len()
                + 2 * ITEM_BYTES_MAX
                <= self.room
    }

    /// Items written.
    #[must_use]
    pub fn items(&self) -> usize {
        self.count
    }

    /// Bytes of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.items.len()
    }

    /// Adds the state of a connection. The caller has asked [`Self::has_room`].
    pub fn record(&mut self, group: GroupHeader, record: &Record) {
        debug_assert!(record.state < STATE_MAX && record.flags < FLAGS_MAX);
        let local = record.local.filter(|local| local.is_ipv6() == record.key.vip.is_ipv6());
        let is_long = local.is_some() || record.deltas.is_some();
        let kind = if is_long { KIND_LONG_RECORD } else { KIND_RECORD };
        self.head(kind, group, Some(&record.key));
        self.items.push((record.state % STATE_MAX) | ((record.flags % FLAGS_MAX) * STATE_MAX));
        self.key(&record.key);
        put_varint(&mut self.items, u64::from(record.service.0));
        put_varint(&mut self.items, u64::from(record.server.0));
        self.incarnation(record.incarnation);
        if !is_long {
            return;
        }
        let has_header = record.deltas.is_some_and(|deltas| deltas.header_at.is_some());
        let has_longer = record.deltas.is_some_and(|deltas| deltas.longer.is_some());
        let more = [
            (local.is_some(), MORE_LOCAL),
            (record.deltas.is_some(), MORE_DELTAS),
            (has_header, MORE_HEADER),
            (has_longer, MORE_LONGER),
        ];
        let more = more.iter().filter(|(has, _)| *has).fold(0, |all, (_, bit)| all | bit);
        self.items.push(more);
        if let Some(local) = local {
            self.endpoint(local.ip(), local.port());
        }
        if let Some(deltas) = &record.deltas {
            self.deltas(deltas);
        }
    }

    /// Adds a delete.
    pub fn delete(&mut self, group: GroupHeader, key: &Key, incarnation: u64) {
        self.head(KIND_DELETE, group, Some(key));
        self.key(key);
        self.incarnation(incarnation);
    }

    /// Adds the beginning of a snapshot.
    pub fn begin(&mut self, group: GroupHeader, snapshot: u64) {
        self.head(KIND_BEGIN, group, None);
        put_varint(&mut self.items, snapshot);
    }

    /// Adds the end of a snapshot.
    pub fn end(&mut self, group: GroupHeader, snapshot: u64) {
        self.head(KIND_END, group, None);
        put_varint(&mut self.items, snapshot);
    }

    /// Adds the leave to sweep.
    pub fn sweep(&mut self, group: GroupHeader, snapshot: u64) {
        self.head(KIND_SWEEP, group, None);
        put_varint(&mut self.items, snapshot);
    }

    /// Adds the end of a donation.
    pub fn donation_end(&mut self, group: GroupHeader) {
        self.head(KIND_DONATION_END, group, None);
    }

    /// The frame.
    #[must_use]
    pub fn finish(self, seq: u64, sent_ms: u64, age_ms: u64) -> Vec<u8> {
        let header = BATCH_HEADER_BYTES_MAX + self.groups.len() * GROUP_HEADER_BYTES_MAX;
        let mut out = Vec::with_capacity(header + self.items.len());
        out.push(TYPE_BATCH);
        put_varint(&mut out, seq);
        put_varint(&mut out, sent_ms);
        put_varint(&mut out, age_ms);
        put_varint(&mut out, self.base.unwrap_or(0));
        put_varint(&mut out, self.groups.len() as u64);
        for header in &self.groups {
            encode_group(&mut out, header);
        }
        out.extend_from_slice(&self.items);
        out
    }

    fn head(&mut self, kind: u8, group: GroupHeader, key: Option<&Key>) {
        // Few groups per batch, and the last one is the likeliest: a search from the end is short.
        let index = self.groups.iter().rposition(|known| *known == group).unwrap_or_else(|| {
            self.groups.push(group);
            self.groups.len() - 1
        });
        let mut head = kind;
        let mut unusual = None;
        if let Some(key) = key {
            head |= if key.client.is_ipv6() { HEAD_CLIENT_V6 } else { 0 };
            head |= if key.vip.is_ipv6() { HEAD_VIP_V6 } else { 0 };
            let protocol = match key.protocol {
                PROTOCOL_TCP => 0,
                PROTOCOL_UDP => 1,
                PROTOCOL_SCTP => 2,
                other => {
                    unusual = Some(other);
                    3
                }
            };
            head |= protocol << HEAD_PROTOCOL_SHIFT;
        }
        if self.last == Some(index) {
            self.items.push(head | HEAD_SAME);
        } else {
            self.items.push(head);
            put_varint(&mut self.items, index as u64);
        }
        self.last = Some(index);
        self.items.extend(unusual);
        self.count += 1;
    }

    fn key(&mut self, key: &Key) {
        self.endpoint(key.client, key.client_port);
        self.endpoint(key.vip, key.vip_port);
    }

    fn endpoint(&mut self, address: IpAddr, port: u16) {
        match address {
            IpAddr::V4(v4) => self.items.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => self.items.extend_from_slice(&v6.octets()),
        }
        self.items.extend_from_slice(&port.to_be_bytes());
    }

    fn deltas(&mut self, deltas: &Deltas) {
        for number in [deltas.to_client, deltas.to_server, deltas.timestamps] {
            self.items.extend_from_slice(&number.to_be_bytes());
        }
        let windows = [deltas.windows_to_client, deltas.windows_to_server];
        self.items.extend_from_slice(&windows.map(i8::cast_unsigned));
        self.items.extend(deltas.header_at.into_iter().flat_map(u32::to_be_bytes));
        if let Some(LongerReply { address: Grown { at, len, by }, is_heard }) = deltas.longer {
            self.items.extend_from_slice(&at.to_be_bytes());
            let heard = if is_heard { LONGER_IS_HEARD } else { 0 };
            self.items.extend_from_slice(&[len & ADDRESS_MAX, by & ADDRESS_MAX | heard]);
        }
    }

    fn incarnation(&mut self, incarnation: u64) {
        let base = *self.base.get_or_insert(incarnation);
        put_varint(&mut self.items, zigzag(incarnation.wrapping_sub(base) as i64));
    }
}
