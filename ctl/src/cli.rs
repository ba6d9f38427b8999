//! The command line: what can be said, and the help that explains it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{drops::SERVICE_HELP, duration};

const EXIT_CODES: &str = "\
How the cluster is reached, the first that applies:
  1. --socket
  2. --server and --credentials
  3. the variable STEADFAST_SOCKET
  4. the variable STEADFAST_CREDENTIALS
  5. /run/steadfast/clusterd.sock, if it exists
  6. ~/.config/steadfast/credentials, if it exists

Exit codes:
  0  done
  1  refused or failed: the message says why and what to do
  2  the command line is wrong
  3  a node answered, but cannot do it now (no quorum, or no outcome in time)
  4  no node could be reached

Data goes to stdout, messages to stderr. NO_COLOR turns colours off; so does a stdout that is no
terminal. With -o json stdout is exactly one JSON document: the reply of the call with the field
names of control.proto, enums by name in lower case, ages in ms.

Example:
  clusterctl status
  clusterctl --credentials ops.json --server 198.18.255.2:7440 status -o json";

const STATUS_HELP: &str = "\
What is wrong stands first: !! does not work, or the next fault breaks sessions; ! is worth a look.

Counters of --verbose, since the start of the daemon asked:
  loop gap max        longest pause of a thread; above half of interval_ms x silent_after of
                      settings.beacon it is too long
  gaps                pauses of the ownership thread that made it start its timers anew
  mutes               times it held a group and stopped to announce, unsure of itself
  deposed             times it gave a group up because another node holds it, planned moves included
  claims, claims_won  take-overs it tried, and those a majority consented to
  consents, refusals  answers to the claims of others
  resignations        groups it gave up: a planned stop, a stuck worker, a link that went
  rejected_...        beacons that changed nothing, by reason: notmember, forged, replayed
  held_back           packets of connections it does not know yet; TCP sends them again
  no_holder           packets while nobody held the group
  breaks              replication streams that broke and were begun anew
  too_big             senders that were told that a packet is too big for its way
  fragmented          IPv4 packets that left in pieces, being too big for their way
  expired             senders that were told that a TTL or hop limit ran out here
  fragments_early     fragments before their first one, which waited for it; fragments_released:
                      those of them that were sent after it
  longer_replies      227 replies of FTP servers that got longer with the VIP in them
  unfit_replies       227 replies that went on with the server's address, or without any
  client_told         packets that told a server who its client is; client_untold: had no room
  tunnel_mtus         what routers said of the way of tunnels, to which servers, for 10 minutes
  tunnel_errors       ICMP errors heard about packets in tunnels, by kind

See also clusterctl get service --help: what each reason in DROPS means.

Example:
  clusterctl status
  clusterctl status -o json";

/// Runs a Steadfast cluster: nodes, configuration, VIP groups, connections.
#[derive(Debug, Parser)]
#[command(name = "clusterctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes.
#[derive(Args, Debug, Default)]
pub(crate) struct Global {
    /// Unix socket of the node to ask
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub(crate) socket: Option<PathBuf>,
    /// API address of the node to ask, instead of the endpoints in the credentials
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        conflicts_with = "socket",
        help_heading = "Global options"
    )]
    pub(crate) server: Option<String>,
    /// Credentials file that `init` wrote; `init` writes it there
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) credentials: Option<PathBuf>,
    /// Form of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Global options"
    )]
    pub(crate) output: Output,
    /// How long to wait for the answer, such as 500ms or 5s [default: 10s; init and join: 60s]
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        value_parser = duration::parse,
        help_heading = "Global options"
    )]
    pub(crate) timeout: Option<Duration>,
}

/// Form of the data on stdout.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs: one document
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a cluster of this one node and write the administrator's credentials
    ///
    /// Runs on the node itself, over its Unix socket. Prints a token with which the next node
    /// joins. The private key of the administrator is written to the credentials file (mode 0600)
    /// and printed nowhere.
    #[command(after_help = "Example:\n  clusterctl init --cluster-name web-fra")]
    Init(InitArgs),
    /// Make this node join the cluster of a token
    ///
    /// Runs on the joining node itself, over its Unix socket. The daemon checks the cluster's
    /// authority against the fingerprint in the token, sends a signing request, and answers when
    /// the node is a member and has the configuration.
    #[command(after_help = "Example:\n  clusterctl join TOKEN")]
    Join {
        /// The token that `init` or `token create` printed
        token: String,
    },
    /// Make tokens with which nodes join
    #[command(subcommand)]
    Token(TokenCommand),
    /// List and change the members
    #[command(subcommand)]
    Node(NodeCommand),
    /// Validate a configuration and make it the current one, on every node
    ///
    /// The document is the whole desired state: what it does not name is removed. A wrong
    /// document is refused with line, column and what to write, and changes nothing.
    #[command(after_help = "Example:\n  clusterctl apply -f cluster.yaml --dry-run\n  \
        clusterctl apply -f cluster.yaml --revision 7\n  clusterctl apply -f -")]
    Apply(ApplyArgs),
    /// Print one kind of thing
    #[command(subcommand)]
    Get(GetCommand),
    /// Show the cluster on one screen: what is wrong, nodes, groups, services, data plane
    ///
    /// Answered from the memory of the node asked, so it works without leader and quorum.
    /// Counters are those of that node.
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Show every worker and counter of the node asked
        #[arg(short, long)]
        verbose: bool,
    },
    /// Move VIP groups
    #[command(subcommand)]
    Vip(VipCommand),
    /// Look at connections
    #[command(subcommand)]
    Conn(ConnCommand),
    /// Tell what every node would do with a packet, and why
    ///
    /// Each node handles the packet on a copy of what it knows: nothing is sent, opened or counted.
    /// Without --packet it is the next packet of a connection if an open one is known there, and else
    /// the one that opens it. Not told: whether the packet gets there, and what a rate limit would do.
    #[command(after_help = "Example:\n  \
        clusterctl trace 'tcp 198.51.100.7:4711 > 198.18.0.100:80'\n  \
        clusterctl trace 'udp [2001:db8::7]:4711 > [2001:db8:1::100]:53' -o json\n  \
        clusterctl trace 'tcp 198.51.100.7:4711 > 198.18.0.100:80' --packet rst")]
    Trace(TraceArgs),
    /// Unpin the steering program of the node asked, before uninstalling
    ///
    /// While the program is pinned, packets for the VIPs are dropped when no daemon runs. After
    /// this the node's kernel sees them again. Refused while the node holds groups.
    #[command(after_help = "Example:\n  clusterctl detach")]
    Detach,
}

/// Arguments of `init`.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Name of the cluster, for people
    #[arg(long, value_name = "NAME", default_value = "steadfast")]
    pub(crate) cluster_name: String,
    /// Name of this node [default: the instance name in the node's local file]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Replace a credentials file that exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// `token ...`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for one node
    #[command(after_help = "Example:\n  clusterctl token create --ttl 15m")]
    Create {
        /// How long it is good [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = duration::parse)]
        ttl: Option<Duration>,
    },
}

/// `node ...`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the members
    #[command(after_help = "Example:\n  clusterctl node list")]
    List,
    /// Remove a member for good
    ///
    /// Its id is never used again and its certificate is refused. A live node that holds groups
    /// is refused: cordon it and move them first.
    #[command(after_help = "Example:\n  clusterctl node remove n3")]
    Remove(NodeArg),
    /// Make a learner a voter
    #[command(after_help = "Example:\n  clusterctl node promote n4")]
    Promote(NodeArg),
    /// Take a voter's vote; it still holds, claims and forwards
    ///
    /// Refused where the voters that are left would decide nothing. Have an odd number of voters.
    #[command(after_help = "Example:\n  clusterctl node demote n4")]
    Demote(NodeArg),
    /// Put a node that has joined in the place of another, which is removed for good
    ///
    /// A machine that was made anew joins with a token and gets a new id; this gives it the vote of
    /// the old one, if that had one, in one step, and removes the old one. The old one may be dead. A
    /// live one that holds groups is refused: cordon it and run `vip rebalance` first.
    #[command(after_help = "Example:\n  clusterctl node replace n3 n4\n  \
        clusterctl node replace 3 7")]
    Replace {
        /// Who goes: its name if only one has it, or its id
        old: String,
        /// Who takes its place, a member already
        new: String,
    },
    /// Let a node claim no groups; it still votes, consents and forwards
    #[command(after_help = "Example:\n  clusterctl node cordon n3")]
    Cordon(NodeArg),
    /// End a cordon, and trust a node again that is held down
    ///
    /// A node that failed again and again (settings.hold_down) gets no groups and claims last until it
    /// has been stable; `get nodes` shows how long that takes. This lets it go at once, and what it
    /// failed before counts no more.
    #[command(after_help = "Example:\n  clusterctl node uncordon n3")]
    Uncordon(NodeArg),
}

/// Names a node.
#[derive(Args, Debug)]
pub(crate) struct NodeArg {
    /// Name of the node if only one has it, or its id
    pub(crate) node: String,
}

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The document; - reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Validate and show the difference, commit nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse unless this is the current revision
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
}

/// `get ...`
#[derive(Debug, Subcommand)]
pub(crate) enum GetCommand {
    /// Print the configuration document as it was applied
    #[command(after_help = "Example:\n  clusterctl get config\n  \
        clusterctl get config --revision 6")]
    Config {
        /// An earlier revision
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// List services with their real servers
    #[command(after_help = "Example:\n  clusterctl get services")]
    Services,
    /// Show one service: its settings, and what its real servers carry
    ///
    /// ActiveConn and InActConn are those of ipvsadm, in the table of the node asked, copies
    /// included; UDP flows are always InActConn.
    #[command(after_help = SERVICE_HELP)]
    Service(ServiceArgs),
    /// List VIP groups with holder, epoch and copies
    #[command(after_help = "Example:\n  clusterctl get groups")]
    Groups,
    /// List the members
    #[command(after_help = "Example:\n  clusterctl get nodes")]
    Nodes,
}

/// Arguments of `get service`.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Name or id of the service
    pub(crate) name: String,
    /// Show what was counted since the daemon of the node asked started
    #[arg(long, conflicts_with = "rate")]
    pub(crate) stats: bool,
    /// Show what happens in a second, as IPVS estimates it
    #[arg(long)]
    pub(crate) rate: bool,
}

/// `vip ...`
#[derive(Debug, Subcommand)]
pub(crate) enum VipCommand {
    /// Move a VIP group to another node without losing a session
    ///
    /// Waits while the target's copy of the connections is not complete, or further behind the
    /// holder than `settings.copies.lag_max_ms` (200 ms by default), and is refused with the reason
    /// if it still is after --wait; likewise while the target is silent, cordoned or without a link.
    /// --force does not ask how good the copy is: connections that it has not got break.
    #[command(
        after_help = "Example:\n  clusterctl vip move web --to n2\n  clusterctl vip move web --to n2 --wait 60s"
    )]
    Move(MoveArgs),
    /// Spread the VIP groups evenly over the nodes, by planned moves
    ///
    /// Nodes that are cordoned, silent, stopping or witnesses get none, and what they hold goes to
    /// the others. Makes as few moves as can be, one after another, at most 256 in a run, and stops
    /// at the first that is refused: what has moved stays, and another run goes on from there.
    #[command(after_help = "Example:\n  clusterctl vip rebalance --dry-run\n  \
        clusterctl vip rebalance")]
    Rebalance(RebalanceArgs),
}

/// Arguments of `vip rebalance`.
#[derive(Args, Debug)]
pub(crate) struct RebalanceArgs {
    /// Print what would move and why; change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long to wait for each move
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "5s")]
    pub(crate) wait: Duration,
}

/// Arguments of `vip move`.
#[derive(Args, Debug)]
pub(crate) struct MoveArgs {
    /// Name or id of the group
    pub(crate) group: String,
    /// Name or id of the node
    #[arg(long, value_name = "NODE")]
    pub(crate) to: String,
    /// How long to wait for its copy, and until it announces; at most 60s
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "5s")]
    pub(crate) wait: Duration,
    /// Move although connections break that the target has no copy of
    #[arg(long)]
    pub(crate) force: bool,
}

/// Arguments of `trace`.
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    /// Protocol (tcp, udp, sctp), source and destination, each ADDRESS:PORT or [ADDRESS]:PORT
    #[arg(required = true, num_args = 1..=4, value_name = "PACKET")]
    pub(crate) flow: Vec<String>,
    /// What the packet is for [default: what would come next]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) packet: Option<PacketArg>,
}

/// What a packet does to its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum PacketArg {
    /// It opens one; for SCTP an INIT
    #[value(alias = "init")]
    Syn,
    /// It belongs to one; for SCTP a DATA chunk
    #[value(alias = "data")]
    Ack,
    /// It ends one; for SCTP a SHUTDOWN
    #[value(alias = "shutdown")]
    Fin,
    /// It breaks one off; for SCTP an ABORT
    #[value(alias = "abort")]
    Rst,
}

/// `conn ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ConnCommand {
    /// List the connections in the table of the node asked, its own and its copies
    #[command(
        after_help = "IDLE is the time since the last packet that the node asked saw or was \
        told of: a copy and a\nconnection that was taken over count from the last record of it, or \
        from the take-over.\n\nExample:\n  clusterctl conn list --service http --origin replica\n  \
        clusterctl --server n2.example.net:7440 conn list --limit 0 -o json"
    )]
    List(ConnArgs),
}

/// Arguments of `conn list`.
#[derive(Args, Debug)]
pub(crate) struct ConnArgs {
    /// Only of this VIP group (name or id)
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Only of this service (name or id)
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Only to the real server with this id
    #[arg(long, value_name = "ID")]
    pub(crate) server_id: Option<u32>,
    /// Only from this client address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) client: Option<std::net::IpAddr>,
    /// Only those made here, or only copies
    #[arg(long, value_enum)]
    pub(crate) origin: Option<OriginArg>,
    /// The templates of persistent services instead: which clients keep which server
    #[arg(long)]
    pub(crate) templates: bool,
    /// Print at most this many; 0 prints all
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_DEFAULT)]
    pub(crate) limit: u64,
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OriginArg {
    /// Made by the node asked
    Local,
    /// Copied from a peer
    Replica,
}

/// A table can hold a million connections; a screen cannot.
const CONNECTIONS_DEFAULT: u64 = 10_000;

#[cfg(test)]
#[path = "cli_test.rs"]
mod tests;
