//! The examples in `deploy/examples` are read and accepted as the daemons do it, and they are
//! what the lab's network needs.

#![allow(clippy::unwrap_used)]

use std::{fs, net::IpAddr, path::Path};

use steadfast_lab::{
    cluster::running::{GROUP, SERVICE},
    host::{
        family::Family,
        names::{GATEWAY, LOCALS, Mode, PORT, SERVERS, VIP},
    },
};
use steadfast_model::document::{Document, Forwarding, Ports, Scheduler, SynProxy};
use steadfast_model::validate;

fn example(mode: Mode) -> String {
    file(mode.name())
}

fn dual_stack(mode: Mode) -> String {
    file(&format!("{}-dual-stack", mode.name()))
}

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    fs::read_to_string(root.join(format!("{name}.yaml"))).unwrap()
}

#[test]
fn the_examples_describe_the_lab() {
    let modes = [
        (Mode::Dr, Forwarding::Dr),
        (Mode::Nat, Forwarding::Nat),
        (Mode::FullNat, Forwarding::FullNat),
        (Mode::Tun, Forwarding::Tun),
    ];
    for (mode, forwarding) in modes {
        let document = Document::parse(&example(mode)).unwrap();
        assert_eq!(document.groups.len(), 1);
        assert_eq!(document.groups[0].addresses, [VIP]);
        let gateways: &[std::net::Ipv4Addr] = if mode == Mode::Nat { &[GATEWAY] } else { &[] };
        assert_eq!(document.groups[0].gateways, gateways);
        let locals: &[std::net::Ipv4Addr] = if mode == Mode::FullNat { &LOCALS } else { &[] };
        assert_eq!(document.groups[0].local_addresses, locals);
        assert_eq!(document.groups[0].name, GROUP);
        assert_eq!(document.services.len(), 2);
        assert_eq!(document.services[0].name, SERVICE);
        for service in &document.services {
            let at = (service.address, service.port.and_then(Ports::single));
            assert_eq!(at, (Some(VIP.into()), Some(PORT)));
            assert_eq!(service.forwarding, forwarding);
            // Hashing must not be able to save what replication must.
            assert_eq!(service.scheduler, Scheduler::Rr);
            let servers: Vec<_> = service.servers.iter().map(|s| s.address).collect();
            assert_eq!(servers, SERVERS.map(|n| mode.server_address(n)));
            assert!(document.segment_of(servers[0]).is_some());
        }
    }
}

#[test]
fn the_example_of_defence_is_accepted() {
    let document = Document::parse(&file("protected")).unwrap();
    assert_eq!(validate(&document), []);
    assert_eq!(document.services[0].syn_proxy, SynProxy::Auto);
}

#[test]
fn the_examples_of_ftp_are_accepted() {
    for name in ["ftp-nat", "ftp-dr"] {
        let document = Document::parse(&file(name)).unwrap();
        assert_eq!(validate(&document), [], "{name}");
        assert!(document.services[0].persistence_options().is_some(), "{name}");
    }
}

#[test]
fn the_dual_stack_examples_describe_the_lab_in_both_families() {
    let modes = [
        (Mode::Dr, Forwarding::Dr),
        (Mode::Nat, Forwarding::Nat),
        (Mode::FullNat, Forwarding::FullNat),
        (Mode::Tun, Forwarding::Tun),
    ];
    for (mode, forwarding) in modes {
        let document = Document::parse(&dual_stack(mode)).unwrap();
        assert_eq!(validate(&document), []);
        let of = |address: fn(Family) -> IpAddr| Family::V6.all().iter().map(move |f| address(*f));
        let group = &document.groups[0];
        assert!(group.addresses.iter().copied().eq(of(Family::vip)));
        let gateways: Vec<_> = of(Family::gateway).filter(|_| mode == Mode::Nat).collect();
        assert_eq!(group.gateways, gateways);
        let all = Family::V6.all().iter();
        let locals: Vec<_> =
            all.flat_map(|f| f.locals()).filter(|_| mode == Mode::FullNat).collect();
        assert_eq!(group.local_addresses, locals);
        for family in Family::V6.all() {
            let of_family = document.services.iter().filter(|s| s.address == Some(family.vip()));
            let names: Vec<_> = of_family.clone().map(|s| s.name.as_str()).collect();
            assert_eq!((names.len(), names[0]), (2, family.service()));
            for service in of_family {
                assert_eq!(service.single_port(), Some(PORT));
                assert_eq!(service.forwarding, forwarding);
                assert_eq!(service.scheduler, Scheduler::Rr);
                let servers = service.servers.iter().map(|s| s.address);
                assert!(servers.eq(SERVERS.map(|n| family.server(mode, n))));
            }
        }
    }
}

#[test]
fn the_switches_that_the_lab_turns_are_there_exactly_once() {
    for text in Mode::ALL.map(example).into_iter().chain(Mode::ALL.map(dual_stack)) {
        assert_eq!(text.matches("replication: on").count(), 1);
        // A write without quorum must be a real change.
        let changed = text.replacen("weight: 1", "weight: 2", 1);
        let (old, new) = (Document::parse(&text).unwrap(), Document::parse(&changed).unwrap());
        assert_ne!(old, new);
    }
}

/// What a reader copies out of the README is taken by a cluster.
#[test]
fn the_documents_of_the_readme_are_accepted() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let documents: Vec<&str> = blocks.filter(|b| b.contains("apiVersion:")).collect();
    assert!(!documents.is_empty(), "the README shows no document");
    for text in documents {
        let document = Document::parse(text).unwrap();
        assert_eq!(validate(&document), [], "{text}");
    }
}

#[test]
fn the_document_of_the_programs_is_accepted() {
    let document = Document::parse(&steadfast_lab::programs::document::document()).unwrap();
    assert_eq!(validate(&document), []);
    assert_eq!(document.services.len(), steadfast_lab::programs::mode::MODES.len() * 2 * 6);
}
