//! Which server a new connection gets: that of its client's template, where the service is
//! persistent, else the scheduler's choice.

use crate::{
    Asked, Origin, ServerId, Service, SyncHook, TemplateKey, templates::Client, worker::Core,
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// The server, by its index, and whether a template counts the connection.
    pub(crate) fn choose(
        &self,
        service: &Service,
        asked: &Asked,
        epoch: Origin,
        named: Option<usize>,
    ) -> Option<(usize, bool)> {
        let spec = &service.spec;
        // What is named is a connection that there is already, somewhere.
        if let Some(index) = named {
            return Some((index, false));
        }
        let Some(persistence) = spec.persistence else {
            return service.schedule(asked).map(|server| (server, false));
        };
        let client = Client {
            key: TemplateKey { service: spec.id, client: persistence.network(asked.client) },
            group: spec.group,
            epoch,
            persistence,
            connects: !spec.one_packet,
            now_ns: asked.now_ns,
        };
        let place = |id: ServerId| spec.servers.iter().position(|server| server.id == id);
        //= Linux ip_vs_conn.c, ip_vs_check_template(): the weight counts only when told so, and an
        //= overloaded server keeps its clients
        let may_stay = |id: ServerId| {
            let server = place(id).and_then(|index| spec.servers.get(index));
            server.is_some_and(|server| {
                let quiescent = server.weight == 0 || server.drained;
                server.up && !(quiescent && persistence.expire_quiescent_template)
            })
        };
        let choose = || Some(spec.servers.get(service.schedule(asked)?)?.id);
        let persisted = self.shared.table.templates.persist(&client, may_stay, choose)?;
        if let Some(evicted) = &persisted.evicted {
            self.hook.template_removed(evicted);
        }
        if let Some(template) = &persisted.news {
            self.hook.template(template, asked.now_ns);
        }
        Some((place(persisted.server)?, persisted.controlled))
    }
}
