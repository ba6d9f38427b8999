//! FTP services: data connections have to be told from others.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Check, listening::Endpoints};
use crate::{
    document::{Forwarding, Listener, Ports, Protocol, ServiceSpec},
    problem::shown,
};

impl<'a> Check<'a> {
    /// `endpoints` has who listens where, `servers` the FTP servers of the services before.
    pub(super) fn ftp(
        &mut self,
        place: &str,
        service: &'a ServiceSpec,
        endpoints: &mut Endpoints<'a>,
        servers: &mut BTreeMap<IpAddr, &'a str>,
    ) {
        let Some(ftp) = service.ftp else { return };
        let place = format!("{place}.ftp");
        if service.forwarding != Forwarding::Nat {
            let what = format!("{} translates nothing", service.forwarding.name());
            let fix = "take it out, and make a match group of port 21 and the servers' data ports, \
                       with persistence; or write forwarding: nat";
            return self.problem(place, what, fix);
        }
        let listeners = service.listeners();
        let [Listener { address, protocol: Protocol::Tcp, ports }] = listeners[..] else {
            let what = "data connections would not show which of several VIPs they belong to";
            return self.problem(place, what, "give the service one address and one TCP port");
        };
        let Some(control) = ports.single() else {
            let what = format!("{ports} are not one control port");
            return self.problem(place, what, "write the one port that servers take commands on");
        };
        let data = ftp.data_ports;
        let at = format!("{place}.data_ports");
        // Servers open data connections from the port below (RFC 959 section 3.2).
        let used = Ports::new(control.saturating_sub(1).max(1), control);
        if data == Ports::ANY || used.is_some_and(|used| used.meets(data)) {
            let what = format!("{data} has the control port {control} or the one below in it");
            return self.problem(at, what, "write the ports that the servers are set to");
        }
        self.endpoint(
            &at,
            service,
            Listener { address, protocol: Protocol::Tcp, ports: data },
            endpoints,
        );
        for (j, server) in service.servers.iter().enumerate() {
            if let Some(other) = servers.insert(server.address, &service.name) {
                let what =
                    format!("{} is also an FTP server of service {}", server.address, shown(other));
                let fix = "give it another address: its data connections could be of either";
                self.problem(format!("{place}.servers[{j}]").replace(".ftp.", "."), what, fix);
            }
        }
    }
}
