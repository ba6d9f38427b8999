//! What all workers of a node share.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{
    Advanced, Config, ConnectionTable, CookieKeys, Cursor, Groups, NextHops, Removal, StaleSenders,
    SyncHook, TableOptions, Template, TunnelMtus, Unknown, fragments::Fragments,
    newcomers::Newcomers,
};

/// Connections looked at per lock of the table when records are bound to their servers.
const BIND_BATCH: usize = 256;

/// Configuration, roles, next hops and connections of a node.
#[derive(Debug)]
pub struct Shared {
    /// The configuration that packets see; replace it with [`Shared::set_config`].
    pub config: Arc<ArcSwap<Config>>,
    /// Roles of this node in the VIP groups.
    pub groups: Groups,
    /// Next hops.
    pub next_hops: Arc<ArcSwap<NextHops>>,
    /// What cookies are issued and accepted with; without keys no client gets any.
    pub cookie_keys: ArcSwapOption<CookieKeys>,
    /// Who sends to this node what another one should get.
    pub stale_senders: StaleSenders,
    /// Connections that packets speak of and nobody here knows.
    pub unknown: Unknown,
    /// Connections.
    pub table: ConnectionTable,
    /// Packets whose fragments are under way.
    pub(crate) fragments: Fragments,
    /// Clients that the kernel does not know yet.
    pub(crate) newcomers: Newcomers,
    /// What the ways of tunnels take.
    pub tunnel_mtus: TunnelMtus,
    /// Where the search for records that can be bound stands.
    bind_cursor: Mutex<Cursor>,
}

impl Shared {
    /// No configuration, no next hops, an empty table.
    #[must_use]
    pub fn new(options: TableOptions) -> Self {
        Self {
            config: Arc::new(ArcSwap::from_pointee(Config::default())),
            groups: Groups::new(),
            next_hops: Arc::new(ArcSwap::from_pointee(NextHops::default())),
            cookie_keys: ArcSwapOption::empty(),
            stale_senders: StaleSenders::default(),
            unknown: Unknown::default(),
            fragments: Fragments::new(options.seed),
            table: ConnectionTable::new(options),
            newcomers: Newcomers::new(options.seed),
            tunnel_mtus: TunnelMtus::new(),
            bind_cursor: Mutex::default(),
        }
    }

    /// Swaps the configuration in and binds replicated records that waited for it.
    pub fn set_config(&self, config: Config) {
        self.table.attach_loads(&config);
        self.table.templates.configure(&config);
        let config = Arc::new(config);
        self.config.store(Arc::clone(&config));
        let mut cursor = (self.table.unbound() > 0).then(Cursor::default);
        while let Some(at) = cursor {
            cursor = self.table.bind(&config, at, BIND_BATCH).1;
        }
    }

    /// Swaps the next hops in.
    pub fn set_next_hops(&self, next_hops: NextHops) {
        self.next_hops.store(Arc::new(next_hops));
    }

    /// Expires what is due at `now_ns`, looking at no more than `budget` timers. Call it often, from
    /// one thread; call it again at once while `more` is set.
    ///
    /// Also looks for records to bind: one may have come with an older configuration in hand while
    /// [`Self::set_config`] was at work.
    pub fn advance<H>(&self, now_ns: u64, budget: usize, hook: &H) -> Advanced
    where
        H: SyncHook,
    {
        self.tunnel_mtus.advance(now_ns);
        self.fragments.advance(now_ns);
        self.newcomers.advance(now_ns);
        let config = self.config.load();
        if self.table.unbound() > 0 {
            let mut cursor = self.bind_cursor.lock().unwrap_or_else(PoisonError::into_inner);
            *cursor = self.table.bind(&config, *cursor, BIND_BATCH).1.unwrap_or_default();
        }
        let templates = &self.table.templates;
        let mut gone = |template: &Template| hook.template_removed(template);
        let more = templates.advance(now_ns, budget, &self.groups, &mut gone);
        let done = self.table.advance(now_ns, budget, &config, &self.groups, &mut |connection| {
            hook.removed(connection, Removal::Expired, now_ns);
        });
        Advanced { more: done.more || more, ..done }
    }
}
