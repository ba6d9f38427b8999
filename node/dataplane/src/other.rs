//! Packets for addresses of a group that carry no port: echo, and what nobody serves.

use steadfast_packet::{Packet, Transport, echo_reply};

use crate::{
    AddressKind, Reason, Role, SyncHook, Verdict,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Packets that are neither TCP nor UDP.
    pub(crate) fn handle_other(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        view: View<'_>,
    ) -> Verdict {
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
                let vip = (address.kind == AddressKind::Vip).then_some(packet.dst);
                self.relay(frame, relay, address.group, vip, view)
            }
            Role::NoHolder { .. } => Verdict::Drop(Reason::NoHolder),
        }
    }
}
