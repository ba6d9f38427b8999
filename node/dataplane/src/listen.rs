//! Where services listen: ports, ranges of ports, and which service a port belongs to.
//!
//! Guarantees: the most specific service gets a packet: that of its port, then that of a range it
//! is in, then that of all ports. Looking one up takes two hash look-ups and a binary search of at
//! most [`RANGES_MAX`] ranges.

use std::{net::IpAddr, sync::Arc};

use steadfast_packet::Protocol;

use crate::{ConfigError, Service, fast::Map};

/// Ranges of ports of one address and protocol.
pub(crate) const RANGES_MAX: usize = 1_024;

/// Where a service listens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Listen {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Virtual address.
    pub vip: IpAddr,
    /// Ports on it.
    pub ports: Ports,
}

/// Every port from `first` to `last`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest; not below `first`.
    pub last: u16,
}

/// Intervals of ports that have none in common, in order.
#[derive(Clone, Debug)]
pub(crate) struct Intervals<T>(Vec<(Ports, T)>);

/// The services by what they listen on.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    exact: Map<(Protocol, IpAddr, u16), Arc<Service>>,
    wide: Map<(Protocol, IpAddr), Wide>,
}

/// Services of more than one port at one address.
#[derive(Debug, Default)]
struct Wide {
    ranges: Intervals<Arc<Service>>,
    any: Option<Arc<Service>>,
}

impl Listen {
    /// One port.
    #[must_use]
    pub fn new(protocol: Protocol, vip: IpAddr, port: u16) -> Self {
        Self { protocol, vip, ports: port.into() }
    }

    /// Packets to there are for this listener, unless a more specific one has them.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, vip: IpAddr, port: u16) -> bool {
        (self.protocol, self.vip) == (protocol, vip) && self.ports.contains(port)
    }
}

impl Ports {
    /// All ports.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// The port, if it is one.
    #[must_use]
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether `port` is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl<T> Intervals<T> {
    /// Adds an interval; gives back whose one it meets instead.
    pub(crate) fn add(&mut self, ports: Ports, of: T) -> Result<(), &T> {
        // The first that does not end below the new one.
        let at = self.0.partition_point(|(other, _)| other.last < ports.first);
        if self.0.get(at).is_some_and(|(other, _)| other.first <= ports.last) {
            return Err(&self.0[at].1);
        }
        self.0.insert(at, (ports, of));
        Ok(())
    }

    /// Adds what of an interval is nobody's yet.
    pub(crate) fn fill(&mut self, ports: Ports, of: T)
    where
        T: Clone,
    {
        let from = self.0.partition_point(|(other, _)| other.last < ports.first);
        let mut gaps = Vec::new();
        let mut first = Some(ports.first);
        for (other, _) in self.0[from..].iter().take_while(|(other, _)| other.first <= ports.last) {
            let before = first.filter(|first| *first < other.first);
            gaps.extend(before.map(|first| Ports { first, last: other.first - 1 }));
            first = other.last.checked_add(1);
        }
        let rest = first.filter(|first| *first <= ports.last);
        gaps.extend(rest.map(|first| Ports { first, last: ports.last }));
        for gap in gaps {
            let at = self.0.partition_point(|(other, _)| other.last < gap.first);
            self.0.insert(at, (gap, of.clone()));
        }
    }

    /// Whose the port is.
    pub(crate) fn find(&self, port: u16) -> Option<&T> {
        let at = self.0.partition_point(|(ports, _)| ports.last < port);
        self.0.get(at).filter(|(ports, _)| ports.contains(port)).map(|(_, of)| of)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The same ports, each of another.
    pub(crate) fn map<U>(&self, of: impl Fn(&T) -> U) -> Intervals<U> {
        Intervals(self.0.iter().map(|(ports, owner)| (*ports, of(owner))).collect())
    }
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Listeners {
    /// Lets `service` listen there, unless another does.
    pub(crate) fn add(
        &mut self,
        listen: Listen,
        service: &Arc<Service>,
    ) -> Result<(), ConfigError> {
        let Listen { protocol, vip, ports } = listen;
        let taken =
            |other: &Arc<Service>| Err(ConfigError::ListenerTaken(other.spec.id, service.spec.id));
        if let Some(port) = ports.single() {
            return match self.exact.insert((protocol, vip, port), Arc::clone(service)) {
                Some(other) => taken(&other),
                None => Ok(()),
            };
        }
        let wide = self.wide.entry((protocol, vip)).or_default();
        if ports == Ports::ANY {
            return match wide.any.replace(Arc::clone(service)) {
                Some(other) => taken(&other),
                None => Ok(()),
            };
        }
        if wide.ranges.len() == RANGES_MAX {
            return Err(ConfigError::Ranges(vip));
        }
        match wide.ranges.add(ports, Arc::clone(service)) {
            Ok(()) => Ok(()),
            Err(other) => taken(other),
        }
    }

    /// The same, each of the service that `of` gives for it.
    pub(crate) fn map(&self, of: impl Fn(&Arc<Service>) -> Arc<Service>) -> Self {
        let exact = self.exact.iter().map(|(at, service)| (*at, of(service)));
        let wide = self.wide.iter().map(|(at, wide)| {
            let any = wide.any.as_ref().map(&of);
            (*at, Wide { ranges: wide.ranges.map(&of), any })
        });
        Self { exact: exact.collect(), wide: wide.collect() }
    }

    /// The service that gets packets to there.
    pub(crate) fn find(&self, protocol: Protocol, vip: IpAddr, port: u16) -> Option<&Arc<Service>> {
        //= Linux ip_vs_ctl.c, ip_vs_service_find(): the port before the catch-all of port 0
        self.exact.get(&(protocol, vip, port)).or_else(|| {
            let wide = self.wide.get(&(protocol, vip))?;
            wide.ranges.find(port).or(wide.any.as_ref())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of who has which port.
        #[test]
        fn intervals_say_whose_a_port_is(
            ranges in proptest::collection::vec((0..60u16, 0..9u16), 1..20),
        ) {
            let mut intervals = Intervals::default();
            let mut owners = [None; 70];
            for (id, (first, length)) in ranges.into_iter().enumerate() {
                let ports = Ports { first, last: first + length };
                let places = usize::from(ports.first)..=usize::from(ports.last);
                let taken = owners[places.clone()].iter().flatten().next().copied();
                match intervals.add(ports, id) {
                    Ok(()) => {
                        prop_assert_eq!(taken, None);
                        owners[places].fill(Some(id));
                    }
                    Err(other) => {
                        prop_assert!(owners[places].contains(&Some(*other)));
                    }
                }
            }
            for (port, owner) in owners.iter().enumerate() {
                prop_assert_eq!(intervals.find(port as u16), owner.as_ref());
            }
        }
    }

    proptest! {
        /// As above: what is somebody's stays so, all else of an interval is the new one's.
        #[test]
        fn intervals_are_filled_where_they_are_free(
            ranges in proptest::collection::vec((0..60u16, 0..30u16), 1..20),
            shift in prop_oneof![Just(0), Just(u16::MAX - 99)],
        ) {
            let mut intervals = Intervals::default();
            let mut owners = [None; 100];
            for (id, (first, length)) in ranges.into_iter().enumerate() {
                // The last of them may end with the last port.
                let last = if first + length > 80 { 99 } else { first + length };
                intervals.fill(Ports { first: first + shift, last: last + shift }, id);
                for owner in &mut owners[usize::from(first)..=usize::from(last)] {
                    *owner = owner.or(Some(id));
                }
            }
            for (port, owner) in owners.iter().enumerate() {
                prop_assert_eq!(intervals.find(port as u16 + shift), owner.as_ref());
            }
        }
    }

    #[test]
    fn the_ends_of_the_range_of_ports_are_ports() {
        let mut intervals = Intervals::default();
        intervals.add(Ports { first: 65_000, last: u16::MAX }, 'b').unwrap();
        intervals.add(Ports { first: 0, last: 9 }, 'a').unwrap();
        assert_eq!(
            [0, 9, 10, 65_535].map(|port| intervals.find(port).copied()),
            [Some('a'), Some('a'), None, Some('b')]
        );
        assert_eq!(intervals.add(Ports::ANY, 'c'), Err(&'a'));
    }
}
