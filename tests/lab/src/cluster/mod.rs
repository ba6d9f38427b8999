//! The cluster: daemons as an operator runs them, driven through `clusterctl` and nothing else.

pub mod api;
pub mod changes;
pub mod ctl;
pub mod plan;
pub mod ready;
pub mod running;

pub use plan::Plan;
pub use running::Cluster;
