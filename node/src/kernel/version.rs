//! Whether this kernel has what the data plane needs.

use anyhow::{Context, ensure};

/// The oldest Linux with all of it.
const OLDEST: (u32, u32) = (6, 1);

/// Fails on an older kernel, and says which one it is.
///
/// # Errors
/// When it is too old or does not say.
pub(crate) fn check() -> anyhow::Result<()> {
    let path = "/proc/sys/kernel/osrelease";
    let release = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    suffices(release.trim())
}

fn suffices(release: &str) -> anyhow::Result<()> {
    let (major, minor) = OLDEST;
    let found = parse(release).with_context(|| {
        format!("`{release}` is no version of Linux: {major}.{minor} is needed")
    })?;
    ensure!(
        found >= OLDEST,
        "this is Linux {release}: Linux {major}.{minor} or later is needed, boot one"
    );
    Ok(())
}

/// The first two numbers of a release such as `6.1.0-13-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let end = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..end].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        for (release, version) in [
            ("6.1.0-13-amd64", Some((6, 1))),
            ("6.18.44-fc-v669", Some((6, 18))),
            ("6.2", Some((6, 2))),
            ("7.0-rc3", Some((7, 0))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("6", None),
            ("6.", None),
            ("", None),
            ("Linux 6.1", None),
        ] {
            assert_eq!(parse(release), version, "{release}");
        }
    }

    #[test]
    fn an_older_kernel_is_refused_by_name() {
        suffices("6.1.0").unwrap();
        suffices("10.0.1").unwrap();
        for old in ["6.0.19", "5.15.0-91-generic", "4.19.0"] {
            let said = suffices(old).unwrap_err().to_string();
            assert!(said.contains(old) && said.contains("6.1 or later"), "{said}");
        }
        check().unwrap();
    }
}
