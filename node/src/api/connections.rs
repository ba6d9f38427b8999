//! `ListConnections`: the table of this node.

use std::{collections::BTreeMap, net::SocketAddr};

use steadfast_dataplane::{self as dp, Cursor, Provenance};
use steadfast_model::ClusterState;
use steadfast_proto::v1::{
    self, ListConnectionsReply, ListConnectionsRequest, Origin, Protocol, Reason,
};
use tonic::Status;

use super::error::refuse;
use crate::{clock, member::Member, plane::compile::epoch};

/// Connections in one message.
const BATCH: usize = 1_000;

/// Entries looked at per lock of the table.
const WALK: usize = 1_024;

/// Connections that one call returns at most; the total counts them all.
const LIST_MAX: usize = 1_000_000;

/// What the request filters by, resolved.
struct Filter {
    group: Option<dp::GroupId>,
    service: Option<dp::ServiceId>,
    server: Option<dp::ServerId>,
    client: Option<std::net::IpAddr>,
    origin: Origin,
}

/// All batches.
pub(crate) fn list(
    member: &Member,
    request: &ListConnectionsRequest,
) -> Result<Vec<ListConnectionsReply>, Status> {
    let state = member.state();
    let filter = filter(&state, request)?;
    let limit = request.limit.map_or(LIST_MAX, |l| usize::try_from(l).unwrap_or(LIST_MAX));
    let limit = limit.min(LIST_MAX);
    let names = Names::of(&state);
    let config = member.plane.shared.config.load();
    let now = clock::now_ns();
    let (mut total, mut found) = (0_u64, Vec::new());
    let mut from = request.templates.then_some(0);
    while let Some(at) = from {
        let (templates, next) = member.plane.shared.table.templates.walk(at, WALK);
        from = next;
        for template in
            templates.iter().filter(|template| filter.matches_template(template, &config))
        {
            total += 1;
            if found.len() < limit {
                found.push(describe_template(template, &config, &names, now));
            }
        }
    }
    let mut cursor = (!request.templates).then(Cursor::default);
    while let Some(at) = cursor {
        let (connections, next) = member.plane.shared.table.walk(at, WALK);
        cursor = next;
        for connection in connections {
            if !filter.matches(&connection) {
                continue;
            }
            let described =
                (found.len() < limit).then(|| describe(&connection, &config, &names, now));
            // What was read of one that is gone may be another's.
            if connection.is_dead() {
                continue;
            }
            total += 1;
            found.extend(described);
        }
    }
    let mut batches: Vec<ListConnectionsReply> = found
        .chunks(BATCH)
        .map(|chunk| ListConnectionsReply { total, connections: chunk.to_vec() })
        .collect();
    if batches.is_empty() {
        batches.push(ListConnectionsReply { total, connections: Vec::new() });
    }
    Ok(batches)
}

impl Filter {
    fn matches(&self, connection: &dp::Connection) -> bool {
        let record = connection.record();
        let origin = match self.origin {
            Origin::Unspecified => true,
            wanted => wanted == origin(connection),
        };
        origin
            && self.group.is_none_or(|g| g == record.group)
            && self.service.is_none_or(|s| s == record.service)
            && self.server.is_none_or(|s| s == record.server)
            && self.client.is_none_or(|c| c == record.key.client)
    }
}

impl Filter {
    fn matches_template(&self, template: &dp::Template, config: &dp::Config) -> bool {
        let record = &template.record;
        let service = config.service(record.key.service);
        let network = |client| match service.and_then(|service| service.spec.persistence) {
            Some(persistence) => persistence.network(client),
            None => client,
        };
        let origin = match template.provenance {
            Provenance::Local => Origin::Local,
            _ => Origin::Replica,
        };
        (self.origin == Origin::Unspecified || self.origin == origin)
            && self.group.is_none_or(|g| g == record.group)
            && self.service.is_none_or(|s| s == record.key.service)
            && self.server.is_none_or(|s| s == record.server)
            && self.client.is_none_or(|c| network(c) == record.key.client)
    }
}

/// A template in the form of a connection, as IPVS lists it.
fn describe_template(
    template: &dp::Template,
    config: &dp::Config,
    names: &Names,
    now: u64,
) -> v1::Connection {
    let record = &template.record;
    let server = config.server(record.server).and_then(|(s, at)| s.spec.servers.get(at));
    let named =
        |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_default();
    let origin = match template.provenance {
        Provenance::Local => Origin::Local,
        _ => Origin::Replica,
    };
    v1::Connection {
        client: record.key.client.to_string(),
        server: server.map(|server| server.addr.to_string()).unwrap_or_default(),
        server_id: record.server.0,
        service: named(&names.services, record.key.service.0),
        state: if record.assured { "ASSURED" } else { "NONE" }.to_owned(),
        origin: origin.into(),
        timeout_ms: template.until_ns.saturating_sub(now) / 1_000_000,
        epoch: epoch(record.origin).to_string(),
        incarnation: record.incarnation,
        group: named(&names.groups, record.group.0),
        ..v1::Connection::default()
    }
}

fn filter(state: &ClusterState, request: &ListConnectionsRequest) -> Result<Filter, Status> {
    let missing = |what: &str, name: &str| {
        refuse(
            Reason::NotFound,
            format!("there is no {what} `{name}`"),
            "`clusterctl status` shows them",
        )
    };
    let group = match request.group.as_str() {
        "" => None,
        name => {
            let found =
                state.groups.values().find(|g| g.spec.name == name || g.id.0.to_string() == name);
            Some(dp::GroupId(found.ok_or_else(|| missing("group", name))?.id.0))
        }
    };
    let service = match request.service.as_str() {
        "" => None,
        name => {
            let found =
                state.services.values().find(|s| s.spec.name == name || s.id.0.to_string() == name);
            Some(dp::ServiceId(found.ok_or_else(|| missing("service", name))?.id.0))
        }
    };
    let client = match request.client_address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            refuse(
                Reason::InvalidArgument,
                format!("`{text}` is no address"),
                "write an address without a port",
            )
        })?),
    };
    let server = request.server_id.map(dp::ServerId);
    Ok(Filter { group, service, server, client, origin: request.origin() })
}

/// Names by the ids of the data plane.
pub(super) struct Names {
    groups: BTreeMap<u32, String>,
    services: BTreeMap<u32, String>,
}

impl Names {
    pub(super) fn of(state: &ClusterState) -> Self {
        Self {
            groups: state.groups.values().map(|g| (g.id.0, g.spec.name.clone())).collect(),
            services: state.services.values().map(|s| (s.id.0, s.spec.name.clone())).collect(),
        }
    }
}

impl Names {
    /// A service's; empty when it is gone.
    pub(super) fn service(&self, id: dp::ServiceId) -> String {
        self.services.get(&id.0).cloned().unwrap_or_default()
    }
}

fn origin(connection: &dp::Connection) -> Origin {
    match connection.provenance() {
        Provenance::Local => Origin::Local,
        _ => Origin::Replica,
    }
}

pub(super) fn describe(
    connection: &dp::Connection,
    config: &dp::Config,
    names: &Names,
    now: u64,
) -> v1::Connection {
    let (record, live) = (connection.record(), connection);
    let at = |address, port| SocketAddr::new(address, port).to_string();
    let state = live.state();
    let protocol = match record.key.protocol {
        dp::Protocol::Tcp => Protocol::Tcp,
        dp::Protocol::Udp => Protocol::Udp,
        dp::Protocol::Sctp => Protocol::Sctp,
    };
    let timeout_ns = config.timeouts(record.service).of_ns(state);
    let named =
        |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_default();
    v1::Connection {
        protocol: protocol.into(),
        client: at(record.key.client, record.key.client_port),
        vip: at(record.key.vip, record.key.vip_port),
        server: record.target.map(|t| at(t.addr, t.port)).unwrap_or_default(),
        local: record.local.map(|local| at(local.addr, local.port)).unwrap_or_default(),
        server_id: record.server.0,
        service: named(&names.services, record.service.0),
        state: state.name().to_owned(),
        origin: origin(connection).into(),
        idle_ms: now.saturating_sub(live.last_seen_ns()) / 1_000_000,
        timeout_ms: timeout_ns / 1_000_000,
        in_packets: live.in_pkts(),
        out_packets: live.out_pkts(),
        epoch: epoch(record.origin).to_string(),
        incarnation: record.incarnation,
        group: named(&names.groups, record.group.0),
        in_queue: live.workers().0,
        out_queue: live.workers().1,
    }
}
