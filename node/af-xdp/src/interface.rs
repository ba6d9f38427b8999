//! What the kernel says about a network interface of the calling thread's network namespace.
//!
//! Asks by ioctl, not by /sys/class/net: after `nsenter --net` /sys still shows the interfaces of
//! the namespace it was mounted in.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use crate::{abi, sys};

/// Why an interface could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// There is none of that name.
    #[error("no interface {name} in this network namespace (ip link shows them)")]
    NoSuchName {
        /// The name asked for.
        name: String,
    },
    /// There is none of that index.
    #[error("no interface with index {index} in this network namespace (ip link shows them)")]
    NoSuchIndex {
        /// The index asked for.
        index: u32,
    },
    /// The kernel refused an answer.
    #[error("cannot ask the kernel for the {what} of {name}")]
    Query {
        /// The interface's name.
        name: String,
        /// What was asked.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The facts about an interface that binding and steering need, as they were when asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// It takes the tags of VLANs off what it receives (`ethtool -K IF rxvlan on`): an XDP program
    /// cannot tell which frame is of which VLAN.
    pub takes_tags_off: bool,
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    ///
    /// When there is none, or the kernel refuses.
    pub fn by_name(name: &str) -> Result<Self, InterfaceError> {
        let query = Query::new(name)?;
        let index = query.index()?;
        query.facts(index)
    }

    /// Looks an interface up by index.
    ///
    /// # Errors
    ///
    /// When there is none, or the kernel refuses.
    pub fn by_index(index: u32) -> Result<Self, InterfaceError> {
        let mut buffer = [0u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer has the IF_NAMESIZE bytes the call may write.
        let found = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr().cast()) };
        if found.is_null() {
            return Err(InterfaceError::NoSuchIndex { index });
        }
        let name = buffer.split(|byte| *byte == 0).next().unwrap_or_default();
        Query::new(&String::from_utf8_lossy(name))?.facts(index)
    }
}

/// An ioctl socket and the name it asks for.
struct Query {
    socket: OwnedFd,
    name: String,
}

impl Query {
    fn new(name: &str) -> Result<Self, InterfaceError> {
        if name.is_empty() || name.len() >= libc::IF_NAMESIZE || name.contains('\0') {
            return Err(InterfaceError::NoSuchName { name: name.to_owned() });
        }
        let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(|source| {
            InterfaceError::Query { name: name.to_owned(), what: "facts", source }
        })?;
        Ok(Self { socket, name: name.to_owned() })
    }

    fn facts(self, index: u32) -> Result<Interface, InterfaceError> {
        let (rx_queues, tx_queues) = self.queues()?;
        let (mac, mtu, takes_tags_off) = (self.mac()?, self.mtu()?, self.takes_tags_off()?);
        Ok(Interface { name: self.name, index, mac, mtu, rx_queues, tx_queues, takes_tags_off })
    }

    fn index(&self) -> Result<u32, InterfaceError> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFINDEX, &mut request).map_err(|source| {
            if source.raw_os_error() == Some(libc::ENODEV) {
                InterfaceError::NoSuchName { name: self.name.clone() }
            } else {
                self.refused("index", source)
            }
        })?;
        // SAFETY: the kernel has filled the member that SIOCGIFINDEX stands for.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
    }

    fn mtu(&self) -> Result<u32, InterfaceError> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFMTU, &mut request).map_err(|source| self.refused("MTU", source))?;
        // SAFETY: the kernel has filled the member that SIOCGIFMTU stands for.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
    }

    fn mac(&self) -> Result<[u8; 6], InterfaceError> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFHWADDR, &mut request)
            .map_err(|source| self.refused("Ethernet address", source))?;
        // SAFETY: the kernel has filled the member that SIOCGIFHWADDR stands for.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(std::array::from_fn(|position| data[position] as u8))
    }

    /// A driver without the question has one queue.
    fn queues(&self) -> Result<(u32, u32), InterfaceError> {
        let mut channels =
            abi::EthtoolChannels { cmd: abi::ETHTOOL_GCHANNELS, ..Default::default() };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut channels).cast();
        match self.ask(abi::SIOCETHTOOL, &mut request) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok((1, 1)),
            Err(source) => return Err(self.refused("queues", source)),
        }
        let queues = |own: u32| own.saturating_add(channels.combined_count).max(1);
        Ok((queues(channels.rx_count), queues(channels.tx_count)))
    }

    /// A driver without the question leaves tags where they are.
    fn takes_tags_off(&self) -> Result<bool, InterfaceError> {
        let mut flags = abi::EthtoolValue { cmd: abi::ETHTOOL_GFLAGS, data: 0 };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut flags).cast();
        match self.ask(abi::SIOCETHTOOL, &mut request) {
            Ok(()) => Ok(flags.data & abi::ETH_FLAG_RXVLAN != 0),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(source) => Err(self.refused("flags", source)),
        }
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: `ifreq` is integers and a pointer; all-zero is a valid value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (target, byte) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *target = byte as libc::c_char;
        }
        request
    }

    fn ask(&self, question: u64, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: `request` is what all questions of this file take; the one with a pointer in
        // it (SIOCETHTOOL) points to a live structure of the size its command stands for.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                question as libc::Ioctl,
                std::ptr::from_mut(request),
            )
        };
        sys::check(result)
    }

    fn refused(&self, what: &'static str, source: io::Error) -> InterfaceError {
        InterfaceError::Query { name: self.name.clone(), what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_known_by_name_and_by_index() {
        let loopback = Interface::by_name("lo").unwrap();
        assert_eq!(loopback.mac, [0; 6]);
        assert_eq!((loopback.rx_queues, loopback.tx_queues), (1, 1));
        assert!(loopback.mtu >= 1500);
        assert_eq!(Interface::by_index(loopback.index).unwrap(), loopback);
    }

    #[test]
    fn unknown_interfaces_are_named_in_the_error() {
        let message = Interface::by_name("afx-none").unwrap_err().to_string();
        assert!(message.contains("afx-none"), "{message}");
        assert!(matches!(
            Interface::by_name("a-name-that-is-much-too-long"),
            Err(InterfaceError::NoSuchName { .. })
        ));
        assert!(matches!(
            Interface::by_index(u32::MAX / 2),
            Err(InterfaceError::NoSuchIndex { .. })
        ));
    }
}
