//! The real servers' programs: their files, and how each is started. None becomes a daemon: each
//! is one process that is ended by its number.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::document::{DNS, FTP, FTP_DATA, IPERF, SMTP, WEB};

/// Octets of the small download.
pub const SMALL_BYTES: usize = 1 << 20;

/// Octets of the long one, and of it in a second: it takes 4 s.
pub const LARGE_BYTES: usize = 12 << 20;
const LARGE_RATE: &str = "3m";

/// Octets in a second of a data connection of FTP: the long file takes 4 s.
const FTP_RATE: usize = LARGE_BYTES / 4;

/// Names that are served, `n0` and up.
pub const NAMES: u8 = 100;

/// The domain of names and of mail.
pub const DOMAIN: &str = "lab.test";

/// Octets of each string and strings of the large record set: more than one packet holds.
const TEXT_BYTES: usize = 200;
const TEXTS: usize = 15;

/// Where files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// Everything is below.
    pub dir: PathBuf,
}

impl Files {
    /// What nginx serves.
    #[must_use]
    pub fn www(&self) -> PathBuf {
        self.dir.join("www")
    }

    /// A file of server `n`.
    #[must_use]
    pub fn of(&self, n: u8, name: &str) -> PathBuf {
        self.dir.join(format!("s{n}")).join(name)
    }

    /// Mail that server `n` delivered, a file each.
    #[must_use]
    pub fn mailbox(&self, n: u8) -> PathBuf {
        self.of(n, "mail")
    }

    /// Which connection of server `n` got which request, and when in seconds since the epoch.
    #[must_use]
    pub fn requests(&self, n: u8) -> PathBuf {
        self.of(n, "requests.log")
    }

    /// Writes everything that does not depend on the server.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_shared(&self, seed: u64) -> Result<()> {
        let www = self.www();
        fs::create_dir_all(&www).with_context(|| www.display().to_string())?;
        for (name, len) in [("small", SMALL_BYTES), ("large", LARGE_BYTES)] {
            fs::write(www.join(name), noise(seed ^ len as u64, len))?;
        }
        Ok(())
    }
}

/// Octets that look like none of the others.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(next());
    }
    bytes.truncate(len);
    bytes
}

/// The addresses of name `n`.
#[must_use]
pub fn addresses_of(n: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(198, 19, 0, n), Ipv6Addr::new(0x2001, 0xdb8, 0x19, 0, 0, 0, 0, n.into()))
}

/// The strings of `large.lab.test`, each a record.
#[must_use]
pub fn texts() -> Vec<String> {
    let text = |n: usize| format!("{n:02}").chars().cycle().take(TEXT_BYTES).collect();
    (0..TEXTS).map(text).collect()
}

/// What every response to `/kept/...` is.
#[must_use]
pub fn kept_body() -> String {
    "kept ".repeat(100)
}

/// A program of a server.
#[derive(Debug)]
pub struct Started {
    /// What it is.
    pub what: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Writes the files of server `n`'s programs and says how to start them.
///
/// # Errors
/// When a file cannot be written.
pub fn programs(files: &Files, n: u8) -> Result<Vec<Started>> {
    fs::create_dir_all(files.mailbox(n))?;
    Ok(vec![nginx(files, n)?, dnsmasq(files, n)?, chasquid(files, n)?, iperf(), vsftpd(files, n)?])
}

fn nginx(files: &Files, n: u8) -> Result<Started> {
    let conf = files.of(n, "nginx.conf");
    let (dir, body) = (files.of(n, ""), kept_body());
    let mut text = "daemon off; master_process off; user root; pid nginx.pid;\n\
                    error_log stderr warn;\nevents { worker_connections 512; }\nhttp {\n\
                    log_format request '$connection $msec $uri';\naccess_log off;\n\
                    keepalive_requests 1000000;\n"
        .to_owned();
    for path in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{path}_temp_path {path};");
    }
    let _ = write!(
        text,
        "server {{\nlisten {WEB}; listen [::]:{WEB}; root {}; add_header X-Server s{n};\n\
         location = /large {{ limit_rate {LARGE_RATE}; }}\n\
         location /kept/ {{ access_log {} request; return 200 '{body}'; }}\n}}\n}}\n",
        files.www().display(),
        files.requests(n).display(),
    );
    fs::write(&conf, text)?;
    let args = vec!["-p".into(), dir.into(), "-c".into(), conf.into()];
    Ok(Started { what: "nginx", program: "/usr/sbin/nginx".into(), args })
}

fn dnsmasq(files: &Files, n: u8) -> Result<Started> {
    let conf = files.of(n, "dnsmasq.conf");
    let mut text = format!(
        "port={DNS}\nuser=root\npid-file=\nno-resolv\nno-hosts\nno-poll\nlog-facility=-\n\
         edns-packet-max=4096\nlocal=/{DOMAIN}/\n"
    );
    for name in 0..NAMES {
        let (v4, v6) = addresses_of(name);
        let _ = writeln!(text, "host-record=n{name}.{DOMAIN},{v4},{v6}");
    }
    for record in texts() {
        let _ = writeln!(text, "txt-record=large.{DOMAIN},\"{record}\"");
    }
    fs::write(&conf, text)?;
    let mut option = OsString::from("--conf-file=");
    option.push(&conf);
    let args = vec!["--keep-in-foreground".into(), option];
    Ok(Started { what: "dnsmasq", program: "/usr/sbin/dnsmasq".into(), args })
}

fn chasquid(files: &Files, n: u8) -> Result<Started> {
    let dir = files.of(n, "chasquid");
    let certificates = dir.join("certs").join(DOMAIN);
    let domain = dir.join("domains").join(DOMAIN);
    for dir in [&certificates, &domain, &dir.join("data")] {
        fs::create_dir_all(dir)?;
    }
    // It does not start without one; no client here asks for it.
    let own = rcgen::generate_simple_self_signed([DOMAIN.to_owned()])?;
    fs::write(certificates.join("fullchain.pem"), own.cert.pem())?;
    fs::write(certificates.join("privkey.pem"), own.signing_key.serialize_pem())?;
    let deliver = files.of(n, "deliver.sh");
    fs::write(&deliver, deliver_script(&files.mailbox(n)))?;
    fs::write(domain.join("aliases"), format!("box: | /bin/sh {}\n", deliver.display()))?;
    let text = format!(
        "hostname: 's{n}.{DOMAIN}'\nsmtp_address: ':{SMTP}'\n\
         submission_address: '127.0.0.1:587'\nsubmission_over_tls_address: '127.0.0.1:465'\n\
         mail_delivery_agent_bin: '/bin/false'\ndata_dir: '{}'\nmail_log_path: '<stderr>'\n",
        dir.join("data").display()
    );
    fs::write(dir.join("chasquid.conf"), text)?;
    let mut option = OsString::from("--config_dir=");
    option.push(&dir);
    Ok(Started { what: "chasquid", program: "/usr/bin/chasquid".into(), args: vec![option] })
}

/// A mail is in the mailbox wholly or not at all.
fn deliver_script(mailbox: &Path) -> String {
    format!(
        "set -e\nnew=$(mktemp {0}/new.XXXXXXXX)\ncat > \"$new\"\nmv \"$new\" \"{0}/mail.${{new##*.}}\"\n",
        mailbox.display()
    )
}

fn iperf() -> Started {
    let args = ["--server", "--port"].map(OsString::from).into_iter();
    let args = args.chain([IPERF.to_string().into()]).collect();
    Started { what: "iperf3", program: "/usr/bin/iperf3".into(), args }
}

/// It serves what nginx serves; its greeting says who it is.
fn vsftpd(files: &Files, n: u8) -> Result<Started> {
    let (conf, empty) = (files.of(n, "vsftpd.conf"), files.of(n, "empty"));
    fs::create_dir_all(&empty)?;
    let (first, last) = FTP_DATA;
    let text = format!(
        "listen=NO\nlisten_ipv6=YES\nlisten_port={FTP}\nbackground=NO\nanonymous_enable=YES\n\
         anon_root={}\nsecure_chroot_dir={}\nconnect_from_port_20=YES\npasv_min_port={first}\n\
         pasv_max_port={last}\nseccomp_sandbox=NO\nlocal_enable=NO\nxferlog_enable=NO\n\
         anon_max_rate={FTP_RATE}\nftpd_banner=s{n}\n",
        files.www().display(),
        empty.display()
    );
    fs::write(&conf, text)?;
    Ok(Started { what: "vsftpd", program: "/usr/sbin/vsftpd".into(), args: vec![conf.into()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_length_and_is_that_of_its_seed() {
        let a = noise(7, 1001);
        assert_eq!((a.len(), &a), (1001, &noise(7, 1001)));
        assert_ne!(a, noise(9, 1001));
        let mut seen = [false; 256];
        a.iter().for_each(|&b| seen[usize::from(b)] = true);
        assert!(seen.iter().filter(|&&s| s).count() > 200);
    }

    #[test]
    fn the_large_answer_does_not_fit_a_packet_but_fits_a_datagram() {
        let len: usize = texts().iter().map(|text| text.len() + 13).sum();
        assert!(len > 1500 && len < 4000, "{len}");
    }
}
