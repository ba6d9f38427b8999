//! Identifiers as the data plane sees them: plain numbers that the committed configuration
//! allocates and never reuses.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub u32);

        impl From<u32> for $name {
            fn from(id: u32) -> Self {
                Self(id)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A VIP group: addresses that move together.
    GroupId
}
id! {
    /// A virtual service.
    ServiceId
}
id! {
    /// A real server of one service.
    ServerId
}

/// The fencing epoch of a group, opaque here but for its order: field by field.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Origin {
    /// Cluster generation.
    pub generation: u32,
    /// Log index of the grant.
    pub grant_index: u64,
    /// Claims on top of that grant.
    pub claim: u32,
    /// The node that holds under this epoch.
    pub node: u32,
}
