//! Packets that carry no port: echo, ICMP errors, and what nobody serves.

use steadfast_packet::{Packet, Transport, echo_reply, parse_error};

use crate::{
    Actions, AddressKind, Reason, Role, SyncHook, Verdict,
    frame::Frame,
    worker::{Core, View, reason_of},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Packets that are neither TCP, UDP nor SCTP.
    pub(crate) fn handle_other(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        match parse_error(frame.received(), packet) {
            Ok(Some(error)) => return self.handle_error(frame, packet, &error, view, actions),
            Ok(None) => {}
            Err(error) => return Verdict::Drop(reason_of(error)),
        }
        let Some(address) = view.config.address(packet.dst) else {
            return Verdict::Drop(Reason::NotOurs);
        };
        if packet.transport != Transport::EchoRequest {
            return Verdict::Drop(Reason::Protocol);
        }
        match &*self.shared.groups.role(address.group) {
            Role::Holder { .. } => match echo_reply(frame.bytes(), packet) {
                Ok(len) => self.send_back(frame, packet.src, len, view),
                Err(_) => Verdict::Drop(Reason::NoSpace),
            },
            Role::Other { relay } => {
                let vip = (address.kind != AddressKind::Gateway).then_some(packet.dst);
                self.relay(frame, relay, address.group, vip, view)
            }
            Role::NoHolder { .. } => Verdict::Drop(Reason::NoHolder),
        }
    }
}
