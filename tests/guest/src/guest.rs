//! The emulated machine.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Image,
    first::{self, Job, OUTPUT_PORT, ROOT_TAG, STATUS_PORT},
};

/// Lines of the guest's console that an error shows.
const CONSOLE_LINES_MAX: usize = 20;

/// Lines of the program that may wait for whoever reads them.
const LINES_QUEUED_MAX: usize = 1024;

/// A machine to be: what it has.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it boots.
    pub image: Image,
    /// Its processors. With one, everything in its kernel happens in one order.
    pub cpus: u32,
    /// What its time is.
    pub clock: Clock,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// After this it is ended, booted or not.
    pub time_limit: Duration,
}

/// What a guest takes for time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Clock {
    /// This machine's: a busy machine makes for a slow guest.
    Real,
    /// An instruction is a nanosecond; only when the guest waits, its time is this machine's. However
    /// slowly it computes, it does not notice. For one processor only.
    Instructions,
}

/// How a run went.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The program's exit code; 128 and the number of the signal that ended it.
    pub code: i32,
    /// From the start to the end of the machine.
    pub took: Duration,
}

impl Guest {
    /// Boots, runs the job's program, hands out every line it writes, and waits for its end.
    ///
    /// # Errors
    /// When the machine cannot be started, or ends without the program's exit code: its console
    /// says why.
    pub fn run(&self, job: &Job, mut on_line: impl FnMut(&str)) -> Result<Ended> {
        if self.clock == Clock::Instructions && self.cpus != 1 {
            bail!("{} processors cannot count their instructions together: give it one", self.cpus);
        }
        let folder = Folder::make()?;
        let initramfs = first::build(&self.image, job, &folder.0)?;
        let console = folder.0.join("console");
        let status = folder.0.join("status");
        let began = Instant::now();
        let mut machine = Machine::start(self, &initramfs, &folder.0)?;
        let ended = machine.follow(began + self.time_limit, &mut on_line)?;
        let Some(ended) = ended else {
            bail!(
                "the guest was still there after {} s and was ended; its console:\n{}",
                self.time_limit.as_secs(),
                tail(&console)
            );
        };
        let code = fs::read_to_string(&status).unwrap_or_default();
        match code.trim().parse() {
            Ok(code) if ended.success() => Ok(Ended { code, took: began.elapsed() }),
            _ => bail!(
                "the guest ended without running the program ({ended}); its console:\n{}{}",
                tail(&console),
                tail(&folder.0.join("emulator")),
            ),
        }
    }
}

/// A running emulator; it ends with this.
struct Machine(Child);

impl Machine {
    fn start(guest: &Guest, initramfs: &Path, folder: &Path) -> Result<Self> {
        let file = |name: &str| format!("file,id={name},path={}", folder.join(name).display());
        // Whatever becomes of us, no machine is left behind.
        let mut command = guest.image.emulator().command(&["--pdeathsig", "KILL"]);
        match guest.clock {
            Clock::Real => command.args(["-accel", "tcg,thread=multi"]),
            Clock::Instructions => {
                command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"])
            }
        };
        command.args(["-cpu", "max", "-no-reboot", "-nodefaults"]);
        command.args(["-display", "none", "-nic", "none"]);
        command.args(["-smp", &guest.cpus.to_string()]);
        command.args(["-m", &guest.memory_mib.to_string()]);
        command.arg("-kernel").arg(guest.image.kernel()).arg("-initrd").arg(initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=1 mitigations=off"]);
        let share = "local,id=share,path=/,security_model=none,readonly=on,multidevs=remap";
        command.args(["-fsdev", share]);
        command.args(["-device", &format!("virtio-9p-pci,fsdev=share,mount_tag={ROOT_TAG}")]);
        command.args(["-chardev", &file("console"), "-serial", "chardev:console"]);
        command.args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=output,signal=off"]);
        command.args(["-device", &format!("virtserialport,nr={OUTPUT_PORT},chardev=output")]);
        command.args(["-chardev", &file("status")]);
        command.args(["-device", &format!("virtserialport,nr={STATUS_PORT},chardev=status")]);
        let said = File::create(folder.join("emulator"))?;
        // An input that ends would close the port for the guest's output too: this one stays open.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said);
        Ok(Self(command.spawn().context("cannot start the emulator")?))
    }

    /// Hands out lines until the machine ends, or the deadline is there.
    fn follow(
        &mut self,
        deadline: Instant,
        on_line: &mut impl FnMut(&str),
    ) -> Result<Option<ExitStatus>> {
        let output = self.0.stdout.take().context("the emulator has no output")?;
        let (sender, lines) = mpsc::sync_channel(LINES_QUEUED_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => on_line(&String::from_utf8_lossy(&line)),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(self.0.wait()?)),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It was not waited for, so its number is its own; when it has ended, both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for one run, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let name = format!("steadfast-guest-{}", std::process::id());
        let numbers = 0..100;
        for number in numbers {
            let folder = std::env::temp_dir().join(format!("{name}-{number}"));
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", folder.display()));
                }
            }
        }
        bail!("{} is full of folders of this process", std::env::temp_dir().display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES_MAX)..].join("\n")
}
