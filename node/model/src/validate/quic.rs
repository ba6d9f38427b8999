//! Routing by QUIC connection ID.

use std::collections::BTreeMap;

use super::Check;
use crate::document::{Protocol, QuicLbSpec, ServiceSpec, octets};

/// Config rotation bits that name a configuration; 7 says that there is none.
const ID_MAX: u32 = 6;
/// Octets of a nonce at least, and of nonce and server ID together at most.
const NONCE_MIN: u32 = 4;
const OCTETS_MAX: u32 = 19;

impl Check<'_> {
    /// How connection IDs name the servers of a service.
    pub(super) fn quic(&mut self, place: &str, service: &ServiceSpec) {
        let configs = format!("{place}.quic_lb");
        let udp = service.listeners().iter().any(|at| at.protocol == Protocol::Udp);
        if !service.quic_lb.is_empty() && !udp {
            let what = "no listener of the service is udp: it gets no QUIC packets";
            self.problem(&configs, what, "take it out, or write protocol: udp");
        }
        let mut ids = BTreeMap::new();
        for (index, config) in service.quic_lb.iter().enumerate() {
            let place = format!("{configs}[{index}]");
            self.quic_config(&place, config);
            if let Some(other) = ids.insert(config.id, index) {
                self.problem(
                    format!("{place}.id"),
                    format!("id {} is that of quic_lb[{other}], too", config.id),
                    "give each its own: the first three bits of a connection ID say which it is",
                );
            }
        }
        let mut named: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for (index, server) in service.servers.iter().enumerate() {
            for (number, id) in server.quic_ids.iter().enumerate() {
                let place = format!("{place}.servers[{index}].quic_ids[{number}]");
                self.quic_id(&place, id, service);
                let Some(id) = octets(id) else { continue };
                if let Some(other) = named.insert(id, server.address.to_string()) {
                    let what = format!("server {other} has this ID already");
                    self.problem(&place, what, "give each server IDs of its own");
                }
            }
        }
    }

    fn quic_config(&mut self, place: &str, config: &QuicLbSpec) {
        self.range(format!("{place}.id"), config.id, 0, ID_MAX);
        let server_id_max = OCTETS_MAX - NONCE_MIN;
        self.range(format!("{place}.server_id_length"), config.server_id_length, 1, server_id_max);
        self.range(
            format!("{place}.nonce_length"),
            config.nonce_length,
            NONCE_MIN,
            OCTETS_MAX - config.server_id_length.clamp(1, server_id_max),
        );
        if config.key.is_some() && config.key_octets().is_none() {
            let what = "the key is not 16 octets in hexadecimal digits";
            self.problem(format!("{place}.key"), what, "write 32 digits, or take it out");
        }
    }

    fn quic_id(&mut self, place: &str, id: &str, service: &ServiceSpec) {
        if service.quic_lb.is_empty() {
            let what = "the service does not look at connection IDs";
            return self.problem(place, what, "take it out, or add quic_lb to the service");
        }
        let lengths: Vec<u32> = service.quic_lb.iter().map(|c| c.server_id_length).collect();
        let len = octets(id).map(|octets| octets.len() as u32);
        if len.is_none_or(|len| !lengths.contains(&len)) {
            let lengths: Vec<String> = lengths.iter().map(ToString::to_string).collect();
            self.problem(
                place,
                format!("`{id}` is no server ID of quic_lb"),
                format!("write {} octets, two hexadecimal digits each", lengths.join(" or ")),
            );
        }
    }
}
