//! The tag of a VLAN (IEEE 802.1Q): taken off what comes, put on what goes.
//!
//! Guarantees: everything behind the tag stays where it is in the buffer; only the two addresses in
//! front of it move. Not here: the outer tag of two (IEEE 802.1ad), priorities.

use crate::{
    Ethernet, NoSpace, ether_type,
    header::{VlanTag, view},
};

/// The VLAN's number in a tag.
pub(crate) const VLAN_ID: u16 = 0x0fff;

/// The addresses of a frame.
const ADDRESSES_LEN: usize = 12;
/// Bytes that a tag adds.
pub const TAG_LEN: usize = size_of::<VlanTag>();

/// A frame whose tag was taken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Untagged {
    /// The number of the VLAN; 0: none, the tag had a priority only.
    pub vlan: u16,
    /// Where the frame starts now.
    pub start: usize,
    /// Its length now.
    pub len: usize,
}

/// The VLAN of a frame, if it has a whole tag.
#[must_use]
#[inline]
pub fn vlan_of(frame: &[u8]) -> Option<u16> {
    let ethernet = view::<Ethernet>(frame, 0)?;
    if ethernet.ether_type.get() != ether_type::VLAN {
        return None;
    }
    let tag = view::<VlanTag>(frame, size_of::<Ethernet>())?;
    Some(tag.control.get() & VLAN_ID)
}

/// Takes the tag off the frame of `len` bytes at `start` of `buffer`; `None` when it has none.
#[inline]
pub fn untag(buffer: &mut [u8], start: usize, len: usize) -> Option<Untagged> {
    let vlan = vlan_of(buffer.get(start..start.checked_add(len)?)?)?;
    buffer.copy_within(start..start + ADDRESSES_LEN, start + TAG_LEN);
    Some(Untagged { vlan, start: start + TAG_LEN, len: len - TAG_LEN })
}

/// Puts a tag without a priority on the frame of `len` bytes at `start` of `buffer`, into the room
/// in front of it; where it starts then, and its length.
///
/// # Errors
/// When there is no room.
pub fn tag(
    buffer: &mut [u8],
    start: usize,
    len: usize,
    vlan: u16,
) -> Result<(usize, usize), NoSpace> {
    let new = start.checked_sub(TAG_LEN).ok_or(NoSpace)?;
    let at = new + ADDRESSES_LEN;
    if buffer.len() < at + TAG_LEN || len < ADDRESSES_LEN {
        return Err(NoSpace);
    }
    buffer.copy_within(start..start + ADDRESSES_LEN, new);
    let [type_high, type_low] = ether_type::VLAN.to_be_bytes();
    let [high, low] = (vlan & VLAN_ID).to_be_bytes();
    buffer[at..at + TAG_LEN].copy_from_slice(&[type_high, type_low, high, low]);
    Ok((new, len + TAG_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses, EtherType and payload, with eight octets in front.
    fn buffer() -> Vec<u8> {
        let mut buffer = vec![0xaa; 8];
        buffer.extend([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x00]);
        buffer.extend(b"payload");
        buffer
    }

    #[test]
    fn a_tag_that_is_put_on_comes_off_again_and_nothing_behind_it_moves() {
        let before = buffer();
        for vlan in [1, 7, 4094] {
            let mut frame = before.clone();
            let (start, len) = tag(&mut frame, 8, 21, vlan).unwrap();
            assert_eq!((start, len), (4, 25));
            assert_eq!(frame[20..], before[20..], "type and payload are where they were");
            assert_eq!(frame[4..16], before[8..20]);
            assert_eq!(frame[16..20], [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
            assert_eq!(vlan_of(&frame[4..]), Some(vlan));
            let off = untag(&mut frame, start, len);
            assert_eq!(off, Some(Untagged { vlan, start: 8, len: 21 }));
            assert_eq!(frame[8..], before[8..]);
        }
    }

    #[test]
    fn priorities_are_no_part_of_the_number() {
        let mut frame = buffer();
        tag(&mut frame, 8, 21, 0).unwrap();
        frame[18] = 0xe0;
        assert_eq!(vlan_of(&frame[4..]), Some(0));
        frame[18] = 0xf1;
        assert_eq!(vlan_of(&frame[4..]), Some(0x100));
    }

    #[test]
    fn what_has_no_whole_tag_and_what_has_no_room_is_left_as_it_is() {
        let mut frame = buffer();
        assert_eq!(untag(&mut frame, 8, 21), None);
        tag(&mut frame, 8, 21, 7).unwrap();
        let whole = frame.clone();
        for len in 0..18 {
            assert_eq!(untag(&mut frame, 4, len), None, "cut at {len}");
        }
        assert_eq!(untag(&mut frame, 4, 26), None, "longer than its buffer");
        assert_eq!(untag(&mut frame, usize::MAX, 4), None);
        assert_eq!(tag(&mut frame, 3, 21, 7), Err(NoSpace));
        assert_eq!(tag(&mut frame, 8, 11, 7), Err(NoSpace));
        assert_eq!(tag(&mut frame, 40, 21, 7), Err(NoSpace));
        assert_eq!(frame, whole);
    }
}
