//! What a plan moves, and how many groups each node holds before and after.

use steadfast_proto::v1::{NodeRef, PlanRebalanceReply};

use super::lists::node_name;
use super::paint::{Paint, Tone};
use super::table::{Cell, Table};

/// The plan, or what was done of it.
pub(crate) fn rebalance(plan: &PlanRebalanceReply, dry_run: bool, paint: Paint) -> String {
    let mut text = String::new();
    if !plan.moves.is_empty() {
        let mut table = Table::new(&["GROUP", "FROM", "TO", "WHY"]);
        for planned in &plan.moves {
            table.row(vec![
                planned.group.as_str().into(),
                name_of(planned.from.as_ref()).into(),
                name_of(planned.to.as_ref()).into(),
                planned.why.as_str().into(),
            ]);
        }
        text += &table.render(paint, 0);
        text.push('\n');
    }
    let after = if dry_run { ">WOULD HOLD" } else { ">HOLDS" };
    let mut table = Table::new(&["NODE", ">HELD", after, ""]);
    for load in &plan.nodes {
        let excluded = match load.excluded.as_str() {
            "" => Cell::default(),
            why => Cell::new(Tone::Warn, format!("gets none: {why}")),
        };
        table.row(vec![
            name_of(load.node.as_ref()).into(),
            load.holds.to_string().into(),
            load.will_hold.to_string().into(),
            excluded,
        ]);
    }
    text += &table.render(paint, 0);
    text.push('\n');
    text += &verdict(plan, dry_run);
    text
}

fn verdict(plan: &PlanRebalanceReply, dry_run: bool) -> String {
    let groups = match plan.moves.len() {
        0 => return "Nothing to move.\n".to_owned(),
        1 => "1 group".to_owned(),
        n => format!("{n} groups"),
    };
    let more = match plan.more {
        0 => String::new(),
        n => format!(" {n} more would follow: run it again."),
    };
    if dry_run {
        format!("Dry run: nothing was moved. {groups} would move.{more}\n")
    } else {
        format!("Moved {groups}.{more}\n")
    }
}

/// The name of a node, as far as it is told.
pub(crate) fn name_of(node: Option<&NodeRef>) -> String {
    node.map_or_else(|| "?".to_owned(), node_name)
}
