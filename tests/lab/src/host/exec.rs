//! Running the system's tools: `ip`, `bridge`, `ethtool`, `nft`, `nsenter`.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Tools the lab needs, with the Debian package each is in.
pub const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ethtool", "ethtool"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("nft", "nftables"),
];

/// Checks that the lab can work here at all.
///
/// # Errors
/// What is missing and how to get it.
pub fn check_rights_and_tools() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab makes network namespaces and needs root: run it as root or with sudo");
    }
    check_tools(&TOOLS)
}

/// Checks that programs are there, each given with its Debian package.
///
/// # Errors
/// Which is missing and how to get it.
pub fn check_tools(tools: &[(&str, &str)]) -> Result<()> {
    for (tool, package) in tools {
        let paths = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
        if !paths.iter().any(|p| Path::new(p).join(tool).exists()) {
            bail!("`{tool}` is missing: run `make setup`, or `apt-get install {package}`");
        }
    }
    Ok(())
}

/// Runs a tool to its end; its standard output.
///
/// # Errors
/// When it cannot be started or fails; with what it said.
pub fn run<I, S>(program: &str, args: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    finish(command, None)
}

/// Runs `ip -batch` in a namespace (`None`: this one): one line, one command, all or an error.
///
/// # Errors
/// The first line that failed, with what `ip` said.
pub fn ip_batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    finish(command, Some(lines)).with_context(|| format!("batch:\n{lines}")).map(drop)
}

/// Runs a shell script in the namespace at `namespace`.
///
/// # Errors
/// When a line of it fails.
pub fn shell_in(namespace: &Path, script: &str) -> Result<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display()));
    command.args(["sh", "-e", "-u", "-c", script]);
    finish(command, None).with_context(|| format!("script:\n{script}"))
}

fn finish(mut command: Command, input: Option<&str>) -> Result<String> {
    use std::os::unix::process::CommandExt as _;
    // A group of its own: Ctrl-C is for the lab, which then cleans up in order.
    command.process_group(0);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // A tool that ends early says why on its standard error, which is read below.
        let _ = pipe.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    if !status.success() {
        bail!("{command:?}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
