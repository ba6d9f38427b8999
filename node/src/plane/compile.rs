//! The committed configuration and what health checks say, as the data plane wants it.

use steadfast_dataplane as dp;
use steadfast_model::{
    ClusterState, CookieSecret, Cookies, NodeId, Service,
    document::{
        ClientAddress, ConnReuse, Forwarding, GUE_PORT, Listener, MssClamp, OnServerGone, Over,
        PersistenceSpec, Ports, Protocol, Scheduler, ServerOrder, ServiceSpec, SynProxy, Timeouts,
        TunnelKind, TunnelSpec, Unserved, octets,
    },
};

const _: () = assert!(dp::SLOTS == steadfast_model::PORT_SLOTS);

/// Whether a server of a service is up.
pub(crate) type UpFn<'a> = dyn Fn(&Service, usize) -> bool + 'a;

/// Compiles for `workers` workers of `node`; `generation` must grow with every call, which is made
/// at `now_ns`.
pub(crate) fn config_spec(
    state: &ClusterState,
    node: NodeId,
    up: &UpFn<'_>,
    workers: usize,
    generation: u64,
    now_ns: u64,
) -> dp::ConfigSpec {
    let unserved = match state.settings().unserved {
        Unserved::Reject => dp::Unserved::Reject,
        Unserved::Drop => dp::Unserved::Drop,
    };
    let groups = state.groups.values().map(|g| dp::GroupSpec {
        id: dp::GroupId(g.id.0),
        vips: g.spec.addresses.clone(),
        gateways: g.spec.gateways.clone(),
        locals: g.spec.local_addresses.clone(),
        unserved,
    });
    let services = state.services.values().map(|s| service_spec(s, up));
    let (groups, services) = (groups.collect(), services.collect());
    let port_slot = state.port_slot(node).and_then(dp::PortSlot::new);
    let servers_given = dp::ServerId(state.servers_given().0);
    dp::ConfigSpec { generation, groups, services, now_ns, workers, port_slot, servers_given }
}

/// The keys of cookies as the data plane wants them.
pub(crate) fn cookie_keys(cookies: &Cookies) -> dp::CookieKeys {
    let key = |slot, secret: CookieSecret| dp::CookieKey { slot, key: secret.0 };
    let Cookies { slot, present, previous } = *cookies;
    let previous = previous.map(|secret| key(slot.saturating_sub(1), secret));
    dp::CookieKeys { present: key(slot, present), previous }
}

fn service_spec(service: &Service, up: &UpFn<'_>) -> dp::ServiceSpec {
    let spec = &service.spec;
    let servers = spec.servers.iter().zip(&service.servers).enumerate();
    let servers = servers.map(|(i, (server, id))| dp::ServerSpec {
        id: dp::ServerId(id.0),
        addr: server.address,
        port: spec.server_port(server).unwrap_or(0),
        // Validation bounds it: see WEIGHT_MAX.
        weight: u16::try_from(server.weight).unwrap_or(u16::MAX),
        last_weight: last_weight(service, i),
        drained: server.drain,
        up: up(service, i),
        upper: server.upper.unwrap_or(0),
        lower: server.lower.unwrap_or(0),
        up_since_ns: 0,
    });
    dp::ServiceSpec {
        id: dp::ServiceId(service.id.0),
        group: dp::GroupId(service.group.0),
        listen: spec.listeners().iter().map(listen).collect(),
        scheduler: scheduler(spec),
        order: match spec.server_order {
            ServerOrder::Canonical => dp::ServerOrder::Canonical,
            ServerOrder::NewestFirst => dp::ServerOrder::NewestFirst,
        },
        forwarding: forwarding(spec),
        client_address: match spec.client_address {
            ClientAddress::None => dp::ClientAddress::None,
            ClientAddress::Toa => dp::ClientAddress::Toa,
            ClientAddress::ProxyV2 => dp::ClientAddress::ProxyV2,
        },
        mss_clamp: match spec.mss_clamp {
            MssClamp::Off => dp::MssClamp::Off,
            MssClamp::Auto => dp::MssClamp::Auto,
            MssClamp::At(most) => dp::MssClamp::At(most),
        },
        servers: servers.collect(),
        slow_start_ns: u64::from(spec.slow_start_s.unwrap_or(0)) * 1_000_000_000,
        limits: dp::Limits {
            new_per_s: spec.limits.new_per_s.unwrap_or(0),
            per_source: spec.limits.per_source.unwrap_or(0),
            over: match spec.limits.over {
                Over::Hash => dp::Over::Hash,
                Over::Refuse => dp::Over::Refuse,
            },
        },
        syn_proxy: match spec.syn_proxy {
            SynProxy::Off => dp::SynProxy::Off,
            SynProxy::Auto => dp::SynProxy::Auto,
            SynProxy::Always => dp::SynProxy::Always,
        },
        policies: dp::Policies {
            on_server_gone: match spec.on_server_gone {
                OnServerGone::Drop => dp::OnServerGone::Drop,
                OnServerGone::Reset => dp::OnServerGone::Reset,
                OnServerGone::Reschedule => dp::OnServerGone::Reschedule,
            },
            reuse: match spec.conn_reuse {
                ConnReuse::Always => dp::ConnReuse::Always,
                ConnReuse::FinWait => dp::ConnReuse::FinWait,
                ConnReuse::Never => dp::ConnReuse::Never,
            },
            sloppy_tcp: spec.sloppy_tcp,
            sloppy_sctp: spec.sloppy_sctp,
        },
        timeouts: timeouts(&spec.timeouts),
        one_packet: spec.one_packet,
        ftp: spec.ftp.map(|ftp| dp::Ftp { data: ports(ftp.data_ports) }),
        persistence: spec.persistence_options().as_ref().map(persistence),
        quic: quic(service),
        sync: dp::SyncSettings {
            threshold: spec.sync.threshold,
            period: spec.sync.period,
            refresh_period_s: spec.sync.refresh_period_s,
            retries: u8::try_from(spec.sync.retries).unwrap_or(3),
            on_established: spec.sync.on_established,
            every_packet: spec.sync.every_packet,
            persist_mode: spec.sync.persist_mode,
        },
    }
}

fn persistence(spec: &PersistenceSpec) -> dp::Persistence {
    // Validation bounds the prefixes.
    let bits = |prefix: u32| u8::try_from(prefix).unwrap_or(u8::MAX);
    dp::Persistence {
        timeout_ns: u64::from(spec.timeout_s) * 1_000_000_000,
        prefix_v4: bits(spec.prefix_v4),
        prefix_v6: bits(spec.prefix_v6),
        expire_quiescent_template: spec.expire_quiescent_template,
    }
}

/// What validation let through is all right: nothing is left out here.
fn quic(service: &Service) -> dp::QuicSpec {
    let length = |octets: u32| u8::try_from(octets).unwrap_or(u8::MAX);
    let configs = service.spec.quic_lb.iter().map(|config| dp::QuicConfig {
        id: length(config.id),
        server_id_len: length(config.server_id_length),
        nonce_len: length(config.nonce_length),
        key: config.key_octets(),
    });
    let servers = service.spec.servers.iter().zip(&service.servers);
    let ids = servers.flat_map(|(spec, id)| {
        let octets = spec.quic_ids.iter().filter_map(|text| octets(text));
        let ids = octets.filter_map(|octets| dp::QuicServerId::new(&octets));
        ids.map(|quic| (quic, dp::ServerId(id.0)))
    });
    dp::QuicSpec { configs: configs.collect(), servers: ids.collect() }
}

fn listen(listener: &Listener) -> dp::Listen {
    let (protocol, ports) = (protocol(listener.protocol), ports(listener.ports));
    dp::Listen { protocol, vip: listener.address, ports }
}

fn ports(ports: Ports) -> dp::Ports {
    dp::Ports { first: ports.first(), last: ports.last() }
}

/// The weight that keeps a server's place in a hash table while its weight is 0. IPVS's `sh` has
/// no such thing: it is left out where its tables are wanted exactly.
fn last_weight(service: &Service, server: usize) -> u16 {
    let spec = &service.spec;
    if spec.scheduler == Scheduler::Sh && spec.server_order == ServerOrder::NewestFirst {
        return 0;
    }
    let last = service.last_weights.get(server).copied().unwrap_or(0);
    u16::try_from(last).unwrap_or(u16::MAX)
}

fn scheduler(spec: &ServiceSpec) -> dp::SchedulerKind {
    let hash = spec.hash.unwrap_or_default();
    let options = dp::HashOptions { port: hash.port, fallback: hash.fallback };
    match spec.scheduler {
        Scheduler::Rr => dp::SchedulerKind::Rr,
        Scheduler::Wrr => dp::SchedulerKind::Wrr,
        Scheduler::Lc => dp::SchedulerKind::Lc,
        Scheduler::Wlc => dp::SchedulerKind::Wlc,
        Scheduler::Sed => dp::SchedulerKind::Sed,
        Scheduler::Nq => dp::SchedulerKind::Nq,
        Scheduler::Lblc => dp::SchedulerKind::Lblc,
        Scheduler::Lblcr => dp::SchedulerKind::Lblcr,
        Scheduler::Dh => dp::SchedulerKind::Dh,
        Scheduler::Sh => dp::SchedulerKind::Sh(options),
        Scheduler::Mh => dp::SchedulerKind::Mh(options),
        Scheduler::Fo => dp::SchedulerKind::Fo,
        Scheduler::Ovf => dp::SchedulerKind::Ovf,
        Scheduler::Twos => dp::SchedulerKind::Twos,
    }
}

fn timeouts(timeouts: &Timeouts) -> dp::Timeouts {
    dp::Timeouts::default()
        .with(dp::State::Established, timeouts.tcp_s)
        .with(dp::State::FinWait, timeouts.tcp_fin_s)
        .with(dp::State::Udp, timeouts.udp_s)
        .with(dp::State::SctpEstablished, timeouts.sctp_s)
        .with(dp::State::SynSent, timeouts.syn_sent_s)
        .with(dp::State::SynRecv, timeouts.syn_recv_s)
        .with(dp::State::TimeWait, timeouts.time_wait_s)
        .with(dp::State::Close, timeouts.close_s)
        .with(dp::State::CloseWait, timeouts.close_wait_s)
        .with(dp::State::LastAck, timeouts.last_ack_s)
        .with(dp::State::Listen, timeouts.listen_s)
        .with(dp::State::SynAck, timeouts.synack_s)
        .with(dp::State::None, timeouts.none_s)
        .with(dp::State::SctpInit1, timeouts.sctp_init1_s)
        .with(dp::State::SctpInit, timeouts.sctp_init_s)
        .with(dp::State::SctpCookieSent, timeouts.sctp_cookie_sent_s)
        .with(dp::State::SctpCookieReplied, timeouts.sctp_cookie_replied_s)
        .with(dp::State::SctpCookieWait, timeouts.sctp_cookie_wait_s)
        .with(dp::State::SctpCookie, timeouts.sctp_cookie_s)
        .with(dp::State::SctpCookieEchoed, timeouts.sctp_cookie_echoed_s)
        .with(dp::State::SctpShutdownSent, timeouts.sctp_shutdown_sent_s)
        .with(dp::State::SctpShutdownReceived, timeouts.sctp_shutdown_received_s)
        .with(dp::State::SctpShutdownAckSent, timeouts.sctp_shutdown_ack_sent_s)
        .with(dp::State::SctpRejected, timeouts.sctp_rejected_s)
        .with(dp::State::SctpClosed, timeouts.sctp_closed_s)
}

/// The protocol in the data plane's type.
pub(crate) fn protocol(protocol: Protocol) -> dp::Protocol {
    match protocol {
        Protocol::Tcp => dp::Protocol::Tcp,
        Protocol::Udp => dp::Protocol::Udp,
        Protocol::Sctp => dp::Protocol::Sctp,
    }
}

/// The number of the protocol in an IP header.
pub(crate) fn ip_protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The forwarding method in the data plane's type.
pub(crate) fn forwarding(spec: &ServiceSpec) -> dp::Forwarding {
    match spec.forwarding {
        Forwarding::Dr => dp::Forwarding::Dr,
        Forwarding::Nat => dp::Forwarding::Nat,
        Forwarding::FullNat => dp::Forwarding::FullNat,
        Forwarding::Tun => {
            dp::Forwarding::Tunnel(tunnel(spec.tunnel_options().unwrap_or_default()))
        }
    }
}

fn tunnel(spec: TunnelSpec) -> dp::Tunnel {
    match spec.kind {
        TunnelKind::Ipip => dp::Tunnel::IpIp,
        TunnelKind::Gue => dp::Tunnel::Gue {
            port: spec.gue_port().unwrap_or(GUE_PORT),
            checksum: match spec.checksum {
                None => dp::UdpChecksum::ByFamily,
                Some(true) => dp::UdpChecksum::On,
                Some(false) => dp::UdpChecksum::Off,
            },
        },
        TunnelKind::Gre => dp::Tunnel::Gre { checksum: spec.checksum == Some(true) },
    }
}

/// An epoch as the data plane orders it.
pub(crate) fn origin(epoch: steadfast_model::Epoch) -> dp::Origin {
    dp::Origin {
        generation: epoch.generation,
        grant_index: epoch.grant_index,
        claim: epoch.claim,
        node: epoch.node.0,
    }
}

/// An epoch of the data plane in the cluster's type.
pub(crate) fn epoch(origin: dp::Origin) -> steadfast_model::Epoch {
    steadfast_model::Epoch {
        generation: origin.generation,
        grant_index: origin.grant_index,
        claim: origin.claim,
        node: steadfast_model::NodeId(origin.node),
    }
}

#[cfg(test)]
#[path = "compile_test.rs"]
mod tests;
