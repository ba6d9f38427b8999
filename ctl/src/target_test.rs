use std::fs;

use super::*;

/// A folder of this test's own, removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("clusterctl-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes credentials and gives their path.
    fn credentials(&self, name: &str, endpoints: &[&str]) -> PathBuf {
        let credentials = AdminCredentials {
            ca_pem: "ca".to_owned(),
            cert_pem: "cert".to_owned(),
            key_pem: "key".to_owned(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
        };
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string(&credentials).unwrap()).unwrap();
        path
    }

    fn environment(&self) -> Environment {
        Environment {
            socket: None,
            credentials: None,
            home: Some(self.0.clone()),
            default_socket: self.0.join("clusterd.sock"),
            colour: false,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn endpoints(target: &Target) -> &[String] {
    match target {
        Target::Tls { endpoints, .. } => endpoints,
        Target::Socket(path) => panic!("a socket: {}", path.display()),
    }
}

#[test]
fn the_documented_order_holds() {
    let folder = Folder::new("order");
    let mut environment = folder.environment();
    let mut global = Global::default();
    let resolve = |global: &Global, environment: &Environment| Target::resolve(global, environment);

    let failure = resolve(&global, &environment).expect_err("nothing is there");
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.message.contains("clusterd.sock"), "{failure}");

    folder.credentials(CREDENTIALS_BELOW_HOME, &["home:1"]);
    assert_eq!(endpoints(&resolve(&global, &environment).unwrap()), ["home:1"]);

    fs::write(&environment.default_socket, "").unwrap();
    let default_socket = Target::Socket(environment.default_socket.clone());
    assert_eq!(resolve(&global, &environment).unwrap(), default_socket);

    environment.credentials = Some(folder.credentials("env.json", &["env:1"]));
    assert_eq!(endpoints(&resolve(&global, &environment).unwrap()), ["env:1"]);

    environment.socket = Some(PathBuf::from("/env.sock"));
    let env_socket = Target::Socket(PathBuf::from("/env.sock"));
    assert_eq!(resolve(&global, &environment).unwrap(), env_socket);

    global.server = Some("flag:1".to_owned());
    assert_eq!(endpoints(&resolve(&global, &environment).unwrap()), ["flag:1"]);

    global.server = None;
    global.socket = Some(PathBuf::from("/flag.sock"));
    let flag_socket = Target::Socket(PathBuf::from("/flag.sock"));
    assert_eq!(resolve(&global, &environment).unwrap(), flag_socket);
}

#[test]
fn local_commands_take_only_the_socket() {
    let folder = Folder::new("local");
    let environment = folder.environment();
    let global = Global { server: Some("h:1".to_owned()), ..Global::default() };
    let failure = Target::resolve_local(&global, &environment, "join").expect_err("a server");
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.fix.contains("on the node itself"), "{}", failure.fix);

    let default = Target::resolve_local(&Global::default(), &environment, "join").unwrap();
    assert_eq!(default, Target::Socket(environment.default_socket));
}

#[test]
fn endpoints_are_host_and_port() {
    let path = Path::new("file");
    for good in ["198.18.0.1:7480", "[2001:db8::1]:7480", "n1.example.net:1"] {
        assert!(check_endpoints(&[good.to_owned()], path).is_ok(), "{good}");
    }
    for wrong in ["", "n1", "n1:", "n1:0", "n1:65536", ":1", "2001:db8::1:7480", "https://n1:1"] {
        let failure = check_endpoints(&[wrong.to_owned()], path).expect_err(wrong);
        assert_eq!(failure.exit, Exit::Usage, "{wrong}");
    }
    assert!(check_endpoints(&[], path).is_err());
}

#[test]
fn a_file_that_is_no_credentials_says_so() {
    let folder = Folder::new("wrong-file");
    for content in ["", "services: []\n", "{\"ca_pem\": \"x\"}", "[]"] {
        let path = folder.0.join("c.json");
        fs::write(&path, content).unwrap();
        let global = Global { credentials: Some(path), ..Global::default() };
        let failure = Target::resolve(&global, &folder.environment()).expect_err(content);
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("c.json"), "{failure}");
        assert!(failure.fix.contains("init"), "{}", failure.fix);
    }
}

#[test]
fn credentials_others_can_read_are_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("mode");
    let path = folder.credentials("c.json", &["h:1"]);
    for (mode, warned) in [(0o600, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (_, warning) = credentials::read(&path).unwrap();
        assert_eq!(warning.is_some(), warned, "{mode:o}");
    }
}
