//! Every round of a suite on one cluster. In a full suite, cells that have a good report of the
//! same commit are not run again.

use anyhow::{Error, Result};

use super::{
    cell::{Program, Round, rounds},
    report::{CellReport, Seen},
    round,
    stage::{self, Stage},
};
use crate::{
    cluster::{Cluster, Plan},
    demo::{
        report::Origin,
        series::origin,
        story::{self, Console},
        suite::{Extent, Suite},
        table::Table,
    },
    host::sweep,
};

/// A round that shows nothing this often has failed.
const TRIES_MAX: u32 = 3;

/// Runs the cells whose name contains `only`. What became of each cell goes to `table`.
///
/// # Errors
/// When something cannot be removed or written.
pub async fn run(
    suite: &Suite,
    only: &str,
    console: &mut Console,
    table: &mut Table,
) -> Result<()> {
    let plan = stage::plan(&suite.plan);
    let origin = origin(suite.seed);
    let mut set: Option<(Cluster, Stage)> = None;
    for round in rounds(suite.extent) {
        let left = left_of(suite, only, &round, &origin, table);
        if left.is_empty() {
            continue;
        }
        console.say(&format!("=== programs {round}"));
        let seen = run_round(&plan, &mut set, &round, &left, console).await?;
        for (program, seen) in seen {
            let report = CellReport { cell: round.cell(program), seen, origin: origin.clone() };
            story::print(&report.line());
            report.add_to(table);
            report.write(&CellReport::path(&suite.reports, &round, program))?;
        }
    }
    drop(set);
    sweep::sweep(&plan.tag)?;
    Ok(())
}

/// The programs of a round that are to be run; what was done before goes to the table.
fn left_of(
    suite: &Suite,
    only: &str,
    round: &Round,
    origin: &Origin,
    table: &mut Table,
) -> Vec<Program> {
    let mut left = Vec::new();
    for program in Program::ALL.into_iter().filter(|&p| round.cell(p).contains(only)) {
        let path = CellReport::path(&suite.reports, round, program);
        let done = CellReport::done_before(&path, origin).filter(|_| suite.extent == Extent::Full);
        match done {
            Some(report) => report.add_to(table),
            None => left.push(program),
        }
    }
    left
}

/// A round that shows nothing is repeated on a new cluster.
async fn run_round(
    plan: &Plan,
    set: &mut Option<(Cluster, Stage)>,
    round: &Round,
    programs: &[Program],
    console: &mut Console,
) -> Result<Vec<(Program, Seen)>> {
    let mut last = Error::msg("never run");
    for _ in 0..TRIES_MAX {
        let seen = match set.take() {
            Some(there) => Ok(there),
            None => start(plan, console).await,
        };
        let result = match seen {
            Ok((mut cluster, mut stage)) => {
                let result = round::run(&mut cluster, &mut stage, round, programs).await;
                *set = result.is_ok().then_some((cluster, stage));
                result
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(seen) => return Ok(seen),
            Err(error) => {
                console.say(&format!("=== {round} shows nothing: {error:#}"));
                last = error;
            }
        }
    }
    Ok(programs.iter().map(|&program| (program, Seen::failed(&last))).collect())
}

async fn start(plan: &Plan, console: &mut Console) -> Result<(Cluster, Stage)> {
    sweep::sweep(&plan.tag)?;
    let mut cluster = Cluster::start(plan.clone(), &mut |text| console.say(text)).await?;
    console.say("servers in the front too; nginx, dnsmasq, chasquid, iperf3 and vsftpd on each");
    let stage = Stage::build(&mut cluster, PAYLOAD_SEED).await?;
    Ok((cluster, stage))
}

/// Files are the same in every suite: nothing depends on what is in them.
const PAYLOAD_SEED: u64 = 0x5fad;
