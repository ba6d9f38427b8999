//! A full disk: the Raft role of its node stops and says so, and nothing else does. Needs root; fails
//! without.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use crate::common::{Lab, phase, throughout, until};
use rustix::process::Signal;
use steadfast_lab::host::{family::Family, inside::inside, names::Host};

const PATIENCE: Duration = Duration::from_secs(15);
const SESSIONS: usize = 20;

/// Changes of the configuration until the disk is full, at most.
const CHANGES_MAX: usize = 200;

#[tokio::test]
async fn a_full_disk_stops_the_raft_role_of_its_node_and_no_session() {
    let mut lab = Lab::start("e2edisk").await;
    let (holder, _) = lab.holder().unwrap();
    let n = holder % 3 + 1;
    let other = n % 3 + 1;
    phase(&format!("n{n} gets a disk of 4 MiB, and the group"));
    stop(&mut lab, n).await;
    let folder = lab.cluster.plan().data_dir(n).join("raft");
    put_on_small_disk(&mut lab, &folder);
    lab.cluster.start_node(n).await.unwrap();
    lab.ready().await;
    lab.ctl(1, &["vip", "move", "web", "--to", &format!("n{n}")]).good();
    until("the group at the node with the small disk", PATIENCE, || {
        let holder = lab.holder().map(|(holder, _)| holder);
        if holder == Some(n) { Ok(()) } else { Err(format!("it is at {holder:?}")) }
    });
    lab.ready().await;
    let mut sessions: Vec<TcpStream> = (0..SESSIONS).map(|_| session(&lab)).collect();

    phase("its disk fills up");
    let filler = folder.join("filler");
    fill(&filler);
    let mut changes = 0;
    while role_ended(&lab, n).is_none() {
        assert!(changes < CHANGES_MAX, "{changes} changes found room on a full disk");
        change(&lab, other, changes);
        speak(&mut sessions);
        changes += 1;
    }
    let said = role_ended(&lab, n).unwrap();
    let parts = [&format!("node n{n}: its Raft role has stopped"), "raft.redb", "No space left"];
    assert!(parts.iter().all(|part| said.contains(part)), "status says: {said}");
    let told = lab.ctl(n, &["status"]).out;
    assert!(told.contains("free space"), "no remedy: {told}");
    println!("after {changes} changes: {said}");

    phase("the others go on, and so does the group where it is");
    throughout("the holder stays", Duration::from_secs(2), || {
        speak(&mut sessions);
        match lab.holder() {
            Some((at, _)) if at == n => Ok(()),
            holder => Err(format!("{holder:?}")),
        }
    });
    change(&lab, other, changes);
    sessions.push(session(&lab));
    assert!(role_ended(&lab, n).is_some(), "the role came back by itself");

    phase("space again, and a restart");
    fs::remove_file(&filler).unwrap();
    stop(&mut lab, n).await;
    speak(&mut sessions);
    lab.cluster.start_node(n).await.unwrap();
    lab.ready().await;
    assert_eq!(role_ended(&lab, n), None);
    let revision = |n: u8| lab.status_json(n)["config_revision"].clone();
    assert_eq!(revision(n), revision(other), "n{n} lacks what was committed without it");
    speak(&mut sessions);
    phase(&format!("done: {} sessions, 0 broken", sessions.len()));
}

async fn stop(lab: &mut Lab, n: u8) {
    lab.cluster.signal(n, Signal::TERM).unwrap();
    lab.cluster.reap(n, PATIENCE).await.unwrap();
}

/// Moves what is in a folder to a file system of its own.
fn put_on_small_disk(lab: &mut Lab, folder: &Path) {
    let kept = lab.scratch("kept");
    fs::rename(folder, &kept).unwrap();
    fs::create_dir(folder).unwrap();
    lab.cluster.ledger().update(|state| state.mounts.push(folder.to_owned())).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]).arg(folder);
    assert!(mount.status().unwrap().success());
    for entry in fs::read_dir(&kept).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

/// Writes until there is no room.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [65_536, 4096] {
        let error = loop {
            if let Err(error) = file.write_all(&vec![1; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}

/// What `status` of a node says of its Raft role, if that has stopped.
fn role_ended(lab: &Lab, n: u8) -> Option<String> {
    let status = lab.status_json(n);
    let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
    let texts = warnings.iter().filter_map(|warning| warning["what"].as_str());
    texts.map(str::to_owned).find(|what| what.contains("its Raft role has stopped"))
}

/// Changes the configuration. It may be asked again: an election may be under way.
fn change(lab: &Lab, through: u8, number: usize) {
    let text = lab.cluster.plan().document().unwrap();
    let scheduler = if number.is_multiple_of(2) { "scheduler: wrr" } else { "scheduler: rr" };
    let path = lab.scratch("changed.yaml");
    fs::write(&path, text.replace("scheduler: rr", scheduler)).unwrap();
    until("a change is taken", PATIENCE, || {
        let said = lab.ctl(through, &["apply", "-f", &path.display().to_string()]);
        if said.code == Some(0) { Ok(()) } else { Err(said.to_string()) }
    });
}

/// An open session.
fn session(lab: &Lab) -> TcpStream {
    let stream = inside(&lab.namespace(Host::Client), move || {
        let stream = TcpStream::connect_timeout(&Family::V4.target(), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    });
    let mut streams = [stream.unwrap()];
    speak(&mut streams);
    let [stream] = streams;
    stream
}

/// Each session says something and is answered.
fn speak(sessions: &mut [TcpStream]) {
    for stream in sessions.iter_mut() {
        stream.write_all(b"hello\n").unwrap();
    }
    for stream in sessions {
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "a session broke");
    }
}
