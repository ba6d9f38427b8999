//! `vip rebalance`: asks for a plan, and carries it out move by move.

use std::io::Write;

use serde::Serialize;
use steadfast_proto::v1::{
    MoveGroupRequest, PlanRebalanceReply, PlanRebalanceRequest, PlannedMove,
};

use crate::cli::RebalanceArgs;
use crate::commands::{Session, TIMEOUT, millis};
use crate::failure::Failure;
use crate::render::{self, printable};

/// `vip rebalance -o json`: the plan, and how many of its moves were made.
#[derive(Serialize)]
struct Rebalanced<'a> {
    moved: usize,
    #[serde(flatten)]
    plan: &'a PlanRebalanceReply,
}

impl Session<'_> {
    pub(crate) async fn rebalance(&mut self, args: RebalanceArgs) -> Result<String, Failure> {
        let mut client = self.client(TIMEOUT).await?;
        let plan = client.read(PlanRebalanceRequest {}, async |c, r| c.plan_rebalance(r).await);
        let plan = plan.await?;
        self.notes.extend(plan.notes.iter().map(|note| format!("note: {}", printable(note))));
        let mut moved = 0;
        if !args.dry_run {
            for planned in &plan.moves {
                let place = Place { number: moved + 1, of: plan.moves.len(), planned };
                self.carry_out(&args, &place).await.map_err(|failure| place.explain(failure))?;
                moved += 1;
            }
        }
        let paint = self.paint;
        let report = Rebalanced { moved, plan: &plan };
        self.form(&report, || render::rebalance(&plan, args.dry_run, paint))
    }

    async fn carry_out(&mut self, args: &RebalanceArgs, place: &Place<'_>) -> Result<(), Failure> {
        let planned = place.planned;
        let to = planned.to.clone().unwrap_or_default();
        // A connection each: its deadline is that of one call.
        let mut client = self.client(TIMEOUT.max(args.wait + TIMEOUT)).await?;
        let request = MoveGroupRequest {
            group: planned.group_id.to_string(),
            to_node: to.id.to_string(),
            wait_ms: Some(millis(args.wait)),
            force: false,
        };
        client.change(request, async |c, r| c.move_group(r).await).await?;
        // Nowhere is left to report a stderr that cannot be written to.
        let _ = writeln!(std::io::stderr(), "{}/{} {}", place.number, place.of, place.what());
        Ok(())
    }
}

/// Where in a plan a move stands.
struct Place<'a> {
    number: usize,
    of: usize,
    planned: &'a PlannedMove,
}

impl Place<'_> {
    fn what(&self) -> String {
        let name = |node: &Option<_>| render::name_of(node.as_ref());
        let PlannedMove { group, from, to, .. } = self.planned;
        format!("{} {} -> {}", printable(group), name(from), name(to))
    }

    fn explain(&self, failure: Failure) -> Failure {
        let done = match self.number - 1 {
            0 => "nothing has moved".to_owned(),
            1 => "1 group has moved and stays".to_owned(),
            n => format!("{n} groups have moved and stay"),
        };
        let message = format!(
            "stopped at move {} of {}, {}: {}",
            self.number,
            self.of,
            self.what(),
            failure.message
        );
        let again = "clusterctl vip rebalance --dry-run shows what is left";
        let fix = match failure.fix.as_str() {
            "" => format!("{done}; {again}"),
            fix => format!("{fix}; {done}; {again}"),
        };
        Failure { message, fix, ..failure }
    }
}
