//! The guest's first file system: it mounts this machine's root, read-only, with a layer in memory
//! above it, and runs the program there.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{Image, tool};

/// Modules that mounting the root takes, in the order they are loaded.
const MODULES: [&str; 5] =
    ["fs/netfs/netfs", "net/9p/9pnet", "net/9p/9pnet_virtio", "fs/9p/9p", "fs/overlayfs/overlay"];

/// The name this machine's root has on the guest's bus.
pub(crate) const ROOT_TAG: &str = "root";

/// Serial ports of the guest: where the program writes, and where its exit code goes.
pub(crate) const OUTPUT_PORT: u8 = 1;
pub(crate) const STATUS_PORT: u8 = 2;

/// What is run in the guest.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program: a path of this machine.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it finds in its environment, besides PATH and HOME.
    pub env: Vec<(String, String)>,
}

/// Makes the archive `initramfs` in `folder`, and in `folder` the script that it hands over to.
pub(crate) fn build(image: &Image, job: &Job, folder: &Path) -> Result<PathBuf> {
    let start = folder.join("start");
    fs::write(&start, start_script(image, job)?).context("cannot write the start script")?;
    let tree = folder.join("first");
    for name in ["bin", "modules", "proc", "dev", "below", "above", "root"] {
        fs::create_dir_all(tree.join(name))?;
    }
    let busybox = tool::path_of("busybox").context("`busybox` is missing")?;
    fs::copy(&busybox, tree.join("bin/busybox")).context("cannot copy busybox")?;
    let mut names = Vec::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        let packed = image.modules().join("kernel").join(format!("{module}.ko.xz"));
        let file = fs::File::create(tree.join("modules").join(name))?;
        let status = Command::new("xz").arg("-dc").arg(&packed).stdout(file).status()?;
        if !status.success() {
            bail!("cannot unpack {}: remove the cache and try again", packed.display());
        }
        names.push(name);
    }
    let init = tree.join("init");
    fs::write(&init, init_script(&names, &start))?;
    make_executable(&init)?;
    let archive = folder.join("initramfs");
    pack(&tree, &archive)?;
    fs::remove_dir_all(&tree)?;
    Ok(archive)
}

/// Process 1 of the first file system.
fn init_script(modules: &[&str], start: &Path) -> String {
    let modules = modules.join(" ");
    let start = quoted(&start.to_string_lossy());
    format!(
        "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
for module in {modules}; do $b insmod /modules/$module; done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose {ROOT_TAG} /below
$b mount -t tmpfs above /above
$b mkdir /above/files /above/work
$b mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work root /root
$b umount /proc
$b mount -t proc proc /root/proc
$b mount -t sysfs sys /root/sys
$b mount -t bpf bpf /root/sys/fs/bpf
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts pts /root/dev/pts
$b mount -t tmpfs shm /root/dev/shm
$b mount -t tmpfs run /root/run
exec $b switch_root /root /bin/sh {start}
"
    )
}

/// Process 1 of the guest proper: it ends the machine with the program.
fn start_script(image: &Image, job: &Job) -> Result<String> {
    let path = tool::FOLDERS.join(":");
    let mut lines = format!("export PATH={path} HOME=/root\n");
    for (name, value) in &job.env {
        if name.is_empty() || name.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            bail!("`{name}` is no name of an environment variable");
        }
        lines.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    let (modules, release) = (image.modules(), image.release());
    let modules = quoted(&modules.to_string_lossy());
    let folder = std::env::current_dir().context("where am I?")?;
    let words = std::iter::once(job.program.to_string_lossy().into_owned()).chain(job.args.clone());
    let command = words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
    lines.push_str(&format!(
        "mkdir -p /lib/modules /run/netns /run/lock
[ -e /lib/modules/{release} ] || ln -s {modules} /lib/modules/{release}
ip link set lo up
cd {}
output=$(ls /dev/vport*p{OUTPUT_PORT}) status=$(ls /dev/vport*p{STATUS_PORT})
{command} </dev/null >$output 2>&1
echo $? >$status
busybox poweroff -f
",
        quoted(&folder.to_string_lossy())
    ));
    Ok(lines)
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    collect(tree, Path::new("."), &mut names)?;
    let mut child = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--null"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .spawn()
        .context("cannot start cpio")?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(&names)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cpio: {status}");
    }
    Ok(())
}

fn collect(tree: &Path, at: &Path, names: &mut Vec<u8>) -> Result<()> {
    names.extend(at.as_os_str().as_encoded_bytes());
    names.push(0);
    if tree.join(at).is_dir() {
        for entry in fs::read_dir(tree.join(at))? {
            collect(tree, &at.join(entry?.file_name()), names)?;
        }
    }
    Ok(())
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// One word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_program_as_they_are() {
        let words = ["plain", "two words", "it's", "$HOME `id` \\", "", "\"quoted\"\n"];
        let line = words.map(quoted).join(" ");
        let script = format!("printf '%s|' {line}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("|") + "|");
    }
}
