//! The program's container image, built by the project's own recipe and run by runc, as tightly as the manifests in
//! `deploy/kubernetes` ask for. Knows no Kubernetes.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::OnceCell,
};

use super::{
    random_hex,
    service::{Ended, PATIENCE, finish},
    temp_dir,
};

/// The user and group of the image, and the group of the pod.
pub(crate) const OWN: u32 = 65532;

/// What is left to do when the pipe to the test process closes: on drop, and also when that process is killed.
const END: &str = r#"read -r _; runc --root "$1" delete --force "$2""#;
const REMOVE: &str = r#"read -r _; rm -rf -- "$1""#;

static SHARED: OnceCell<Image> = OnceCell::const_new();

/// The image of the program under test, built once for the test binary.
pub(crate) async fn image() -> &'static Image {
    SHARED.get_or_init(Image::build).await
}

/// An unpacked image.
pub(crate) struct Image {
    /// Its files as they came: paths below its root, without the folders.
    pub(crate) files: Vec<PathBuf>,
    /// What a runtime makes of its configuration.
    pub(crate) config: Value,
    root: PathBuf,
    _afterwards: Afterwards,
}

impl Image {
    async fn build() -> Self {
        // What is shared is not dropped; the watcher clears it away.
        let dir = temp_dir().keep();
        let afterwards = Afterwards::new(REMOVE, &[&dir]);
        let (layout, bundle) = (dir.join("image"), dir.join("bundle"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image/build");
        let mut build = Command::new(script);
        build.arg(env!("CARGO_BIN_EXE_grantkeeper")).arg(format!("oci:{}:test", layout.display()));
        done(build).await;
        let mut unpack = Command::new("umoci");
        unpack.arg("unpack").arg("--image").arg(format!("{}:test", layout.display())).arg(&bundle);
        done(unpack).await;
        let config = fs::read(bundle.join("config.json")).unwrap();
        let root = bundle.join("rootfs");
        let mut files = Vec::new();
        find(&root, &root, &mut files);
        files.sort();
        Self {
            files,
            config: serde_json::from_slice(&config).unwrap(),
            root,
            _afterwards: afterwards,
        }
    }

    /// The file at `path` as it lies in the image.
    pub(crate) fn file(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

fn find(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            find(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}

async fn done(command: Command) {
    let shown = format!("{command:?}");
    let ended = finish(command, "").await;
    assert_eq!(ended.code, 0, "{shown}: {} {}", ended.out, ended.err);
}

/// A container: how the image is to be run.
pub(crate) struct Container {
    config: Value,
    id: String,
    dir: TempDir,
}

impl Container {
    /// The program with these arguments: root read-only, no capability, nothing to be gained, the network of the
    /// machine, so that the servers of the tests are on its loopback.
    pub(crate) async fn new(args: &[&str]) -> Self {
        let image = image().await;
        let mut config = image.config.clone();
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["noNewPrivileges"] = json!(true);
        process["capabilities"] = json!({});
        process["user"]["additionalGids"] = json!([OWN]);
        let entry = process["args"][0].clone();
        process["args"] = [entry].into_iter().chain(args.iter().map(|arg| json!(arg))).collect();
        config["root"] = json!({"path": image.root, "readonly": true});
        let linux = config["linux"].as_object_mut().unwrap();
        // The machines that tests run on hand out no control groups to limit by.
        linux.remove("resources");
        let namespaces = linux["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        Self { config, id: format!("grantkeeper-test-{}", random_hex(8)), dir: temp_dir() }
    }

    /// Shows it a file or folder of the machine at `target`; `how` is `ro` or `rw`.
    pub(crate) fn mount(mut self, source: &Path, target: &str, how: &str) -> Self {
        self.config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": target,
            "type": "bind",
            "source": source,
            "options": ["rbind", "nosuid", "nodev", how],
        }));
        self
    }

    /// Another user than the image's, in these further groups.
    pub(crate) fn user(mut self, uid: u32, groups: &[u32]) -> Self {
        self.config["process"]["user"] = json!({"uid": uid, "gid": uid, "additionalGids": groups});
        self
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.dir.path().join("runc")).kill_on_drop(true);
        runc
    }

    fn prepared(&self) -> Command {
        fs::write(self.dir.path().join("config.json"), self.config.to_string()).unwrap();
        let mut run = self.runc();
        run.arg("run").arg("--bundle").arg(self.dir.path()).arg(&self.id);
        run
    }

    /// Runs it to its end.
    pub(crate) async fn run(self) -> Ended {
        let ended = finish(self.prepared(), "").await;
        assert!(
            !ended.err.contains("runc run failed"),
            "no container can be run here, and these tests are about nothing else (root is needed): {}",
            ended.err
        );
        ended
    }

    /// Starts it, whatever becomes of it.
    pub(crate) fn start(self) -> Running {
        let state = self.dir.path().join("runc");
        let afterwards = Afterwards::new(END, &[&state, Path::new(&self.id)]);
        let log = self.dir.path().join("log");
        let mut run = self.prepared();
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let child = run.spawn().unwrap();
        Running { child, log, _afterwards: afterwards, container: self }
    }
}

/// A running container; ended when dropped, and when the test process is killed.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    _afterwards: Afterwards,
    // Dropped last: runc's own account of the container is in its folder.
    container: Container,
}

impl Running {
    /// Runs `command` in it, to its end, as the kubelet does for a probe.
    pub(crate) async fn exec(&self, command: &[&str]) -> Ended {
        let mut exec = self.container.runc();
        exec.arg("exec").arg(&self.container.id).args(command);
        finish(exec, "").await
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to stop, as the kubelet does; its exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        let mut kill = self.container.runc();
        kill.arg("kill").arg(&self.container.id).arg("TERM");
        done(kill).await;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the container does not stop").unwrap().code()
    }
}

/// A shell that does something once this is dropped, or the test process gone.
struct Afterwards {
    shell: std::process::Child,
    pipe: Option<ChildStdin>,
}

impl Afterwards {
    fn new(what: &str, args: &[&Path]) -> Self {
        let mut shell = std::process::Command::new("sh");
        // An interrupt at the terminal is for the test process; the pipe tells the rest.
        shell.args(["-c", what, "afterwards"]).args(args).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = shell.spawn().unwrap();
        Self { pipe: shell.stdin.take(), shell }
    }
}

impl Drop for Afterwards {
    fn drop(&mut self) {
        drop(self.pipe.take());
        drop(self.shell.wait());
    }
}
