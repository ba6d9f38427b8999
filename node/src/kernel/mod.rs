//! What the kernel knows and the data plane needs: interfaces, addresses, routes, neighbours.
//!
//! Nothing of it is configured twice: it is read by netlink and watched. A full read follows every
//! change of links, addresses and routes, every lost message and every 30 seconds.

mod probe;
mod view;
mod watch;

pub(crate) use probe::Prober;
pub(crate) use view::KernelView;
pub(crate) use watch::watch;
