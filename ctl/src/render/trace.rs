//! What every node would do with a packet.

use std::collections::BTreeSet;

use steadfast_proto::v1::{TraceFate, TraceNode, TraceReply};

use super::paint::{Paint, Tone, printable};

/// Width of the names of steps.
const WHAT_WIDTH: usize = 11;

/// Each node with the way through it, then whether they agree.
pub(crate) fn trace(reply: &TraceReply, paint: Paint) -> String {
    let mut text = String::new();
    for node in &reply.nodes {
        let (tone, headline) = headline(node);
        let name = paint.text(Tone::Title, &format!("NODE {}", name(node)));
        text += &format!("{name}: {}\n", paint.text(tone, &headline));
        for line in &node.lines {
            let (what, says) = (printable(&line.what), printable(&line.text));
            text += &format!("  {what:<WHAT_WIDTH$} {says}\n");
        }
        text.push('\n');
    }
    let (tone, verdict) = verdict(reply);
    text + &paint.text(tone, &verdict) + "\n"
}

fn headline(node: &TraceNode) -> (Tone, String) {
    if !node.error.is_empty() {
        return (Tone::Bad, printable(&node.error));
    }
    let server = printable(&node.server);
    match node.fate() {
        TraceFate::Forwarded => (Tone::Good, format!("to {server}")),
        TraceFate::Returned => (Tone::Good, format!("from {server} to its client")),
        TraceFate::Relayed => (Tone::Good, format!("handed to {}, which holds it", holder(node))),
        TraceFate::Answered => (Tone::Warn, "answered by the node itself".to_owned()),
        TraceFate::Dropped => (Tone::Warn, format!("dropped, {}", printable(&node.drop_reason))),
        TraceFate::ToKernel => (Tone::Warn, "left to the kernel".to_owned()),
        TraceFate::Unspecified => (Tone::Bad, "not told".to_owned()),
    }
}

/// Wherever the packet arrives, it must reach the same server.
fn verdict(reply: &TraceReply) -> (Tone, String) {
    let told: Vec<&TraceNode> = reply.nodes.iter().filter(|node| node.error.is_empty()).collect();
    let silent = reply.nodes.len() - told.len();
    let missing = match silent {
        0 => String::new(),
        1 => "; one node did not tell".to_owned(),
        some => format!("; {some} nodes did not tell"),
    };
    let reaches =
        |node: &&&TraceNode| matches!(node.fate(), TraceFate::Forwarded | TraceFate::Returned);
    let servers: BTreeSet<&str> =
        told.iter().filter(reaches).map(|node| node.server.as_str()).collect();
    let refused = told.iter().any(|node| {
        matches!(node.fate(), TraceFate::Dropped | TraceFate::Answered | TraceFate::ToKernel)
    });
    let revisions: BTreeSet<u64> = told.iter().map(|node| node.config_revision).collect();
    let revisions = match revisions.len() {
        0 | 1 => "",
        _ => "; they have different revisions of the configuration",
    };
    let servers: Vec<String> = servers.into_iter().map(printable).collect();
    let to_the_kernel = |node: &&TraceNode| node.fate() == TraceFate::ToKernel;
    if !told.is_empty() && told.iter().all(to_the_kernel) {
        let what = "It is for none of the cluster's addresses: nodes leave it to their kernels";
        return (Tone::Warn, format!("{what}{missing}{revisions}."));
    }
    match (&servers[..], refused) {
        ([], _) => (Tone::Warn, format!("It reaches no real server{missing}{revisions}.")),
        ([server], false) => {
            let tone = if silent == 0 { Tone::Good } else { Tone::Warn };
            let by = if reply.nodes.len() == 1 { "It" } else { "Through every node it" };
            let by = if silent == 0 { by } else { "Through the others it" };
            (tone, format!("{by} reaches {server}{missing}{revisions}."))
        }
        ([server], true) => (
            Tone::Bad,
            format!(
                "Through some nodes it reaches {server}, through others nothing{missing}{revisions}."
            ),
        ),
        (some, _) => {
            (Tone::Bad, format!("The nodes differ: {}{missing}{revisions}.", some.join(", ")))
        }
    }
}

fn name(node: &TraceNode) -> String {
    node.node.as_ref().map_or_else(String::new, |node| match node.name.as_str() {
        "" => node.id.to_string(),
        name => printable(name),
    })
}

fn holder(node: &TraceNode) -> String {
    let holder = node.holder.as_ref().map(|holder| printable(&holder.name));
    holder.unwrap_or_else(|| "the holder".to_owned())
}
