//! The life of a real server as packets see it.
#![allow(clippy::unwrap_used, missing_docs)]

mod lab;

use lab::*;
use steadfast_dataplane::{Protocol, SchedulerKind, ServerId};

/// The server that a SYN from this client port gets.
fn server_of(lab: &mut Lab, port: u16) -> Option<ServerId> {
    lab.handle(0, &from_client(port, 80, SYN));
    let client = format!("198.18.0.2:{port}");
    lab.find(Protocol::Tcp, &client, "198.18.0.100:80").map(|c| c.record.server)
}

#[test]
fn a_full_server_gets_no_new_connections_until_enough_have_gone() {
    let mut spec = config_spec(1);
    spec.services[0].scheduler = SchedulerKind::Fo;
    let first = spec.services[0].servers.iter_mut().find(|s| s.id == ServerId(11)).unwrap();
    (first.weight, first.upper, first.lower) = (9, 3, 2);
    let mut lab = Lab::with(spec, 1000);
    let (eleven, twelve) = (Some(ServerId(11)), Some(ServerId(12)));
    for port in 4000..4003 {
        assert_eq!(server_of(&mut lab, port), eleven);
    }
    assert_eq!(server_of(&mut lab, 4003), twelve, "three is the bound");
    let remove = |lab: &Lab, port: u16| {
        let client = format!("198.18.0.2:{port}");
        let found = lab.find(Protocol::Tcp, &client, "198.18.0.100:80").unwrap();
        lab.shared.table.remove(&found.record.key, found.record.incarnation).unwrap();
    };
    remove(&lab, 4000);
    assert_eq!(server_of(&mut lab, 4004), twelve, "two are not below two");
    // A connection that becomes inactive is still there.
    lab.handle(0, &from_client(4001, 80, FIN_ACK));
    assert_eq!(server_of(&mut lab, 4005), twelve);
    remove(&lab, 4002);
    assert_eq!(server_of(&mut lab, 4006), eleven, "one is");
    let load = lab.shared.table.load(ServerId(11));
    assert_eq!((load.active(), load.inactive()), (1, 1));
}
