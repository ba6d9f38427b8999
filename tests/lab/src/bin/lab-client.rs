//! The client of the lab: takes commands on standard input, see `steadfast_lab::load::wire`.

#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, steadfast_lab::load::client::run_stdio())?;
    // Standard input may still have a blocking read under way; nothing waits for it.
    runtime.shutdown_background();
    Ok(())
}
