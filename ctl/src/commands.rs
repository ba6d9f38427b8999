//! What each command does: ask, and turn the answer into a report.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use steadfast_proto::json::NamedEnum;
use steadfast_proto::v1::{
    ApplyReply, ApplyRequest, CreateTokenRequest, DetachRequest, GetConfigRequest, Group,
    InitReply, InitRequest, JoinRequest, ListConnectionsRequest, MoveGroupRequest, Node,
    NodeCordonRequest, NodeDemoteRequest, NodePromoteRequest, NodeRef, NodeRemoveRequest,
    NodeReplaceRequest, Origin, Service, StatusReply, StatusRequest, TraceRequest, TraceStep,
};

use crate::cli::{
    ApplyArgs, Cli, Command, ConnArgs, ConnCommand, GetCommand, Global, InitArgs, MoveArgs,
    NodeCommand, OriginArg, Output, PacketArg, ServiceArgs, TokenCommand, TraceArgs, VipCommand,
};
use crate::client::Client;
use crate::credentials::Reservation;
use crate::duration::text_ms;
use crate::failure::{Exit, Failure};
use crate::flow;
use crate::render::{self, Paint, printable};
use crate::target::{Environment, Target};

/// How long an answer may take unless `--timeout` says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// A learner that is to vote is waited for.
const TIMEOUT_VOTES: Duration = Duration::from_secs(20);
/// `init` and `join` make keys, wait for elections and copy the state.
const TIMEOUT_MEMBERSHIP: Duration = Duration::from_secs(60);
/// A daemon takes messages of 4 MiB; the rest is for the envelope.
const DOCUMENT_BYTES_MAX: u64 = (4 << 20) - 4096;

/// What a command has to say.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For stdout.
    pub(crate) data: String,
    /// For stderr, a line each.
    pub(crate) notes: Vec<String>,
}

/// Runs one command.
pub(crate) async fn run(
    cli: Cli,
    environment: &Environment,
    paint: Paint,
) -> Result<Report, Failure> {
    let mut session = Session { global: cli.global, environment, paint, notes: Vec::new() };
    let data = match cli.command {
        Command::Init(args) => session.init(args).await?,
        Command::Join { token } => session.join(token).await?,
        Command::Token(TokenCommand::Create { ttl }) => session.create_token(ttl).await?,
        Command::Node(command) => session.node(command).await?,
        Command::Apply(args) => session.apply(args).await?,
        Command::Get(GetCommand::Config { revision }) => session.config(revision).await?,
        Command::Get(GetCommand::Services) => session.services().await?,
        Command::Get(GetCommand::Service(args)) => session.service(&args).await?,
        Command::Get(GetCommand::Groups) => session.groups().await?,
        Command::Get(GetCommand::Nodes) => session.nodes().await?,
        Command::Status { verbose } => session.status(verbose).await?,
        Command::Vip(VipCommand::Move(args)) => session.move_group(args).await?,
        Command::Vip(VipCommand::Rebalance(args)) => session.rebalance(args).await?,
        Command::Conn(ConnCommand::List(args)) => session.connections(args).await?,
        Command::Trace(args) => session.trace(&args).await?,
        Command::Detach => session.detach().await?,
    };
    Ok(Report { data, notes: session.notes })
}

pub(crate) struct Session<'a> {
    pub(crate) global: Global,
    environment: &'a Environment,
    pub(crate) paint: Paint,
    pub(crate) notes: Vec<String>,
}

impl Session<'_> {
    async fn init(&mut self, args: InitArgs) -> Result<String, Failure> {
        let target = Target::resolve_local(&self.global, self.environment, "init")?;
        let path = self.environment.credentials_out(&self.global)?;
        let reservation = Reservation::new(&path, args.force)?;
        let mut client = self.connect(&target, TIMEOUT_MEMBERSHIP).await?;
        let request = InitRequest { cluster_name: args.cluster_name, node_name: args.node_name };
        let mut reply = client.change(request, async |c, r| c.init(r).await).await?;

        let admin = reply.admin.as_mut().ok_or_else(|| {
            Failure::new(Exit::Refused, "the node created the cluster but sent no credentials")
                .fix("daemon and clusterctl differ in version: use the node's Unix socket")
        })?;
        let path = reservation.fill(admin)?;
        // It is in the file now and belongs in no terminal, log or pipe.
        admin.key_pem.clear();
        self.form(&reply, || init_text(&reply, &path))
    }

    async fn join(&mut self, token: String) -> Result<String, Failure> {
        let target = Target::resolve_local(&self.global, self.environment, "join")?;
        let mut client = self.connect(&target, TIMEOUT_MEMBERSHIP).await?;
        let reply = client.change(JoinRequest { token }, async |c, r| c.join(r).await).await?;
        self.form(&reply, || {
            format!(
                "This node is {} of cluster {} as a {}.\n\nNext:\n  clusterctl status\n",
                node_id(reply.node_id),
                printable(&reply.cluster_name),
                reply.role().json_name()
            )
        })
    }

    async fn create_token(&mut self, ttl: Option<Duration>) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        let request = CreateTokenRequest { ttl_ms: ttl.map(millis) };
        let reply = client.change(request, async |c, r| c.create_token(r).await).await?;
        let life = text_ms(reply.expires_in_ms);
        if self.global.output == Output::Table {
            self.notes.push(format!(
                "Good for one node, for {life}; on that node: clusterctl join TOKEN"
            ));
        }
        self.form(&reply, || format!("{}\n", printable(&reply.token)))
    }

    async fn node(&mut self, command: NodeCommand) -> Result<String, Failure> {
        let (node, cordon) = match command {
            NodeCommand::List => return self.nodes().await,
            NodeCommand::Remove(arg) => return self.remove(arg.node).await,
            NodeCommand::Promote(arg) => return self.promote(arg.node).await,
            NodeCommand::Demote(arg) => return self.demote(arg.node).await,
            NodeCommand::Replace { old, new } => return self.replace(old, new).await,
            NodeCommand::Cordon(arg) => (arg.node, true),
            NodeCommand::Uncordon(arg) => (arg.node, false),
        };
        let mut client = self.client(TIMEOUT).await?;
        let request = NodeCordonRequest { node, cordon };
        let reply = client.change(request, async |c, r| c.node_cordon(r).await).await?;
        self.form(&reply, || {
            let node = name(reply.node.as_ref());
            let is = match (reply.cordoned, reply.changed) {
                (true, true) => "is now cordoned",
                (true, false) => "is already cordoned",
                (false, true) => "is cordoned no more",
                (false, false) => "was not cordoned",
            };
            let trusted = if reply.let_go { " It is held down no more." } else { "" };
            format!("Node {node} {is}.{trusted}\n")
        })
    }

    async fn remove(&mut self, node: String) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        let request = NodeRemoveRequest { node };
        let reply = client.change(request, async |c, r| c.node_remove(r).await).await?;
        self.form(&reply, || format!("Node {} was removed.\n", name(reply.node.as_ref())))
    }

    async fn promote(&mut self, node: String) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        let request = NodePromoteRequest { node };
        let reply = client.change(request, async |c, r| c.node_promote(r).await).await?;
        self.form(&reply, || {
            let already = if reply.changed { "now" } else { "already" };
            format!("Node {} is {already} a voter.\n", name(reply.node.as_ref()))
        })
    }

    async fn demote(&mut self, node: String) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT_VOTES).await?;
        let request = NodeDemoteRequest { node };
        let reply = client.change(request, async |c, r| c.node_demote(r).await).await?;
        self.form(&reply, || {
            let already = if reply.changed { "now" } else { "already" };
            format!("Node {} is {already} a learner.\n", name(reply.node.as_ref()))
        })
    }

    async fn replace(&mut self, old_node: String, new_node: String) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT_VOTES).await?;
        let request = NodeReplaceRequest { old_node, new_node };
        let reply = client.change(request, async |c, r| c.node_replace(r).await).await?;
        self.form(&reply, || {
            let (old, new) = (name(reply.old_node.as_ref()), name(reply.new_node.as_ref()));
            let votes = if reply.voter { ", which votes" } else { "" };
            format!("Node {old} was removed; its place has {new}{votes}.\n")
        })
    }

    async fn apply(&mut self, args: ApplyArgs) -> Result<String, Failure> {
        let (document, source) = read_document(&args.file)?;
        let mut client = self.client(TIMEOUT).await?;
        let request = ApplyRequest {
            document: document.clone(),
            expected_revision: args.revision,
            dry_run: args.dry_run,
            source,
        };
        let reply = client
            .change(request, async |c, r| c.apply(r).await)
            .await
            .map_err(|failure| failure.in_document(document))?;
        for warning in &reply.warnings {
            self.notes.push(format!("warning: {}", printable(warning)));
        }
        self.form(&reply, || apply_text(&reply, args.dry_run))
    }

    async fn config(&mut self, revision: Option<u64>) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        let request = GetConfigRequest { revision };
        let reply = client.read(request, async |c, r| c.get_config(r).await).await?;
        if self.global.output == Output::Table {
            self.notes.push(match reply.revision {
                0 => "no configuration yet: apply one with `clusterctl apply -f FILE`".to_owned(),
                revision => format!("revision {revision}"),
            });
        }
        self.form(&reply, || reply.document.clone())
    }

    async fn services(&mut self) -> Result<String, Failure> {
        let reply = self.ask_status().await?;
        let part = ServicesPart { services: &reply.services };
        self.form(&part, || render::services(&reply, self.paint))
    }

    async fn service(&mut self, args: &ServiceArgs) -> Result<String, Failure> {
        let reply = self.ask_status().await?;
        let service = find_service(&reply.services, &args.name)?;
        let (node, drops) = (render::serving_name(&reply), drops(&reply));
        self.form(&ServicePart { service, drops: &drops }, || match (args.stats, args.rate) {
            (true, _) => render::service_stats(service, &drops, &node, self.paint),
            (_, true) => render::service_rate(service, &drops, &node, self.paint),
            _ => render::service(service, &node, self.paint),
        })
    }

    async fn groups(&mut self) -> Result<String, Failure> {
        let reply = self.ask_status().await?;
        let part = GroupsPart { groups: &reply.groups };
        self.form(&part, || render::groups(&reply, self.paint))
    }

    async fn nodes(&mut self) -> Result<String, Failure> {
        let reply = self.ask_status().await?;
        let part = NodesPart { nodes: &reply.nodes };
        self.form(&part, || render::nodes(&reply, self.paint))
    }

    async fn status(&mut self, verbose: bool) -> Result<String, Failure> {
        let reply = self.ask_status().await?;
        self.form(&reply, || render::status(&reply, self.paint, verbose))
    }

    async fn move_group(&mut self, args: MoveArgs) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT.max(args.wait + TIMEOUT)).await?;
        let request = MoveGroupRequest {
            group: args.group.clone(),
            to_node: args.to,
            wait_ms: Some(millis(args.wait)),
            force: args.force,
        };
        let reply = client.change(request, async |c, r| c.move_group(r).await).await?;
        self.form(&reply, || {
            let holder = name(reply.holder.as_ref());
            let epoch = reply.epoch.as_ref().map_or("-", |epoch| epoch.text.as_str());
            let how = if reply.moved { "is now held by" } else { "was already held by" };
            format!("Group {} {how} {holder}, epoch {}.\n", args.group, printable(epoch))
        })
    }

    async fn connections(&mut self, args: ConnArgs) -> Result<String, Failure> {
        let origin = match args.origin {
            None => Origin::Unspecified,
            Some(OriginArg::Local) => Origin::Local,
            Some(OriginArg::Replica) => Origin::Replica,
        };
        let request = ListConnectionsRequest {
            group: args.group.unwrap_or_default(),
            service: args.service.unwrap_or_default(),
            server_id: args.server_id,
            client_address: args.client.map(|address| address.to_string()).unwrap_or_default(),
            origin: origin.into(),
            limit: Some(args.limit).filter(|limit| *limit > 0),
            templates: args.templates,
        };
        let mut client = self.client(TIMEOUT).await?;
        let reply = client.list_connections(request).await?;
        let shown = reply.connections.len();
        if (shown as u64) < reply.total {
            self.notes.push(format!("{shown} of {} shown: --limit 0 prints all", reply.total));
        }
        self.form(&reply, || render::connections(&reply, self.paint))
    }

    async fn trace(&mut self, args: &TraceArgs) -> Result<String, Failure> {
        let wrong = |why| Failure::new(Exit::Usage, format!("cannot read the packet: {why}"));
        let flow = flow::parse(&args.flow).map_err(|why| {
            wrong(why).fix("clusterctl trace 'tcp 198.51.100.7:4711 > 198.18.0.100:80'")
        })?;
        let step = match args.packet {
            None => TraceStep::Unspecified,
            Some(PacketArg::Syn) => TraceStep::Open,
            Some(PacketArg::Ack) => TraceStep::Data,
            Some(PacketArg::Fin) => TraceStep::Close,
            Some(PacketArg::Rst) => TraceStep::Reset,
        };
        let request = TraceRequest {
            protocol: flow.protocol.into(),
            source: flow.source.to_string(),
            destination: flow.destination.to_string(),
            step: step.into(),
        };
        let mut client = self.client(TIMEOUT).await?;
        let reply = client.read(request, async |c, r| c.trace(r).await).await?;
        self.form(&reply, || render::trace(&reply, self.paint))
    }

    async fn detach(&mut self) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        let reply = client.change(DetachRequest {}, async |c, r| c.detach(r).await).await?;
        self.form(&reply, || {
            let node = name(reply.node.as_ref());
            match reply.interfaces.as_slice() {
                [] => format!("Node {node} had no steering program attached.\n"),
                some => format!(
                    "Node {node}: the steering program is off {}.\n",
                    printable(&some.join(", "))
                ),
            }
        })
    }

    async fn ask_status(&mut self) -> Result<StatusReply, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        client.read(StatusRequest {}, async |c, r| c.status(r).await).await
    }

    pub(crate) async fn client(&mut self, timeout: Duration) -> Result<Client, Failure> {
        let target = Target::resolve(&self.global, self.environment)?;
        self.connect(&target, timeout).await
    }

    async fn connect(&mut self, target: &Target, timeout: Duration) -> Result<Client, Failure> {
        if let Target::Tls { warning: Some(warning), .. } = target {
            self.notes.push(warning.clone());
        }
        Client::connect(target, self.global.timeout.unwrap_or(timeout)).await
    }

    /// The reply as JSON, or what `table` makes of it.
    pub(crate) fn form<T: Serialize>(
        &self,
        reply: &T,
        table: impl FnOnce() -> String,
    ) -> Result<String, Failure> {
        match self.global.output {
            Output::Table => Ok(table()),
            Output::Json => json(reply),
        }
    }
}

/// One document, ending in a newline.
fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n")
        .map_err(|error| Failure::new(Exit::Refused, format!("cannot write JSON: {error}")))
}

/// `get services -o json`: that part of the status.
#[derive(Serialize)]
struct ServicesPart<'a> {
    services: &'a [Service],
}

/// `get service -o json`: the service, and what the node asked dropped, whichever service it was
/// for.
#[derive(Serialize)]
struct ServicePart<'a> {
    service: &'a Service,
    drops: &'a BTreeMap<String, u64>,
}

/// `get groups -o json`.
#[derive(Serialize)]
struct GroupsPart<'a> {
    groups: &'a [Group],
}

/// `get nodes -o json` and `node list -o json`.
#[derive(Serialize)]
struct NodesPart<'a> {
    nodes: &'a [Node],
}

/// Packets that all workers of the node asked dropped, by reason.
fn drops(reply: &StatusReply) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    let workers = reply.local.iter().flat_map(|local| &local.workers);
    for (reason, count) in workers.flat_map(|worker| &worker.drops) {
        *drops.entry(reason.clone()).or_default() += count;
    }
    drops
}

/// The service of that name, else of that id: as a node reads references.
fn find_service<'a>(services: &'a [Service], wanted: &str) -> Result<&'a Service, Failure> {
    let by_name = services.iter().find(|service| service.name == wanted);
    let id = wanted.parse::<u32>().ok();
    by_name.or_else(|| services.iter().find(|service| Some(service.id) == id)).ok_or_else(|| {
        Failure::new(Exit::Refused, format!("there is no service {}", printable(wanted)))
            .fix("look at the names with `clusterctl get services`")
    })
}

/// Reads the document and what to call it in errors.
fn read_document(file: &Path) -> Result<(String, String), Failure> {
    let source = if file == Path::new("-") { "stdin".into() } else { file.display().to_string() };
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("cannot read {source}: {error}"))
            .fix("give a YAML document in UTF-8 with -f FILE, or -f - for stdin")
    };
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).map_err(cannot)?)
    };
    let mut document = String::new();
    reader.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut document).map_err(cannot)?;
    if document.len() as u64 > DOCUMENT_BYTES_MAX {
        let message = format!("{source} has more than {DOCUMENT_BYTES_MAX} bytes");
        return Err(Failure::new(Exit::Usage, message).fix("is it the right file?"));
    }
    Ok((document, source))
}

fn init_text(reply: &InitReply, path: &Path) -> String {
    format!(
        "Cluster {} was created (id {}); this node is {}.\n\
         Administrator's credentials: {} (mode 0600; holds a private key)\n\
         \n\
         Next, on each further node:\n  \
           clusterctl join {}\n\
         That token is good for one node, for {}; another one:\n  \
           clusterctl token create\n\
         Then configure the cluster and look at it:\n  \
           clusterctl apply -f cluster.yaml\n  \
           clusterctl status\n",
        printable(&reply.cluster_name),
        printable(&reply.cluster_id),
        node_id(reply.node_id),
        path.display(),
        printable(&reply.join_token),
        text_ms(reply.join_token_expires_in_ms),
    )
}

fn apply_text(reply: &ApplyReply, dry_run: bool) -> String {
    let mut text: String = reply.diff.iter().map(|line| format!("{}\n", printable(line))).collect();
    let revision = reply.revision;
    text.push_str(&match (reply.changed, dry_run) {
        (false, _) => format!("No change: revision {revision} says the same.\n"),
        (true, true) => format!("Dry run: nothing was committed, revision {revision} stays.\n"),
        (true, false) => format!("Applied as revision {revision}.\n"),
    });
    text
}

fn name(node: Option<&NodeRef>) -> String {
    node.map_or_else(
        || "?".to_owned(),
        |node| format!("{} (id {})", printable(&node.name), node.id),
    )
}

fn node_id(id: u32) -> String {
    format!("node {id}")
}

pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
