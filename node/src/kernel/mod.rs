//! What the kernel knows and the data plane needs: interfaces, addresses, routes, neighbours.
//!
//! Nothing of it is configured twice: it is read by netlink and watched. A full read follows every
//! change of links, addresses and routes, every lost message and every 30 seconds.

mod feed;
mod probe;
mod version;
mod view;
mod watch;

pub(crate) use feed::{KernelFeed, News};
pub(crate) use probe::Prober;
pub(crate) use version::check as check_version;
pub(crate) use view::{Interface, KernelView, Vlan};
pub(crate) use watch::watch;
