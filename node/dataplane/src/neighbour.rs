//! Who has this address: ARP and neighbour solicitations for addresses of a group.

use std::net::IpAddr;

use steadfast_packet::{ArpRequest, Mac, Solicitation, advertisement, arp_reply};

use crate::{
    AddressKind, Reason, Sent, SyncHook, Verdict,
    frame::Frame,
    worker::{Core, View},
};

const BROADCAST: Mac = [0xff; 6];

impl<H> Core<H>
where
    H: SyncHook,
{
    pub(crate) fn answer_arp(
        &self,
        frame: &mut Frame<'_>,
        dst_mac: Mac,
        request: ArpRequest,
        view: View<'_>,
    ) -> Verdict {
        let to_all = dst_mac == BROADCAST;
        let (mac, _) = match self.may_answer(frame, dst_mac, to_all, request.target.into(), view) {
            Ok(asked) => asked,
            Err(reason) => return Verdict::Drop(reason),
        };
        match arp_reply(frame.bytes(), mac, request) {
            Ok(len) => self.transmit(Sent::Answered, frame.port, frame.start(), len),
            Err(_) => Verdict::Drop(Reason::NoSpace),
        }
    }

    pub(crate) fn answer_solicitation(
        &self,
        frame: &mut Frame<'_>,
        dst_mac: Mac,
        solicitation: Solicitation,
        view: View<'_>,
    ) -> Verdict {
        let target = solicitation.target;
        let to_all = dst_mac == solicited_node_mac(target);
        let (mac, kind) = match self.may_answer(frame, dst_mac, to_all, target.into(), view) {
            Ok(asked) => asked,
            Err(reason) => return Verdict::Drop(reason),
        };
        let is_router = kind == AddressKind::Gateway;
        match advertisement(frame.bytes(), mac, solicitation, is_router) {
            Ok(len) => self.transmit(Sent::Answered, frame.port, frame.start(), len),
            Err(_) => Verdict::Drop(Reason::NoSpace),
        }
    }

    /// The MAC address to answer with and what the target is, if this node holds its group now.
    fn may_answer(
        &self,
        frame: &Frame<'_>,
        dst_mac: Mac,
        to_all: bool,
        target: IpAddr,
        view: View<'_>,
    ) -> Result<(Mac, AddressKind), Reason> {
        let mac = view.hops.port_mac(frame.port).ok_or(Reason::ArpIgnored)?;
        if !to_all && dst_mac != mac {
            return Err(Reason::ArpIgnored);
        }
        let address = view.config.address(target).ok_or(Reason::ArpIgnored)?;
        if frame.now_ns < self.discard_questions_until_ns {
            return Err(Reason::ArpStale);
        }
        let group = self.shared.groups.get(address.group);
        if !group.is_some_and(|group| group.may_announce(frame.now_ns)) {
            return Err(Reason::ArpIgnored);
        }
        Ok((mac, address.kind))
    }
}

//= RFC 2464 section 7 with RFC 4291 section 2.7.1
fn solicited_node_mac(target: std::net::Ipv6Addr) -> Mac {
    let [.., a, b, c] = target.octets();
    [0x33, 0x33, 0xff, a, b, c]
}
