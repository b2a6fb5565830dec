//! The container image: what is in it, and the program doing its work in it as Kubernetes would run it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use tempfile::TempDir;

use crate::support::{
    container::{Container, OWN, Running, image},
    service::{Place, eventually},
    temp_dir,
};

/// The user of the app in the manifests.
const APP: u32 = 1001;

/// A folder in memory as a pod's containers find an `emptyDir` of the medium `Memory` with `fsGroup: 65532`.
fn empty_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("grantkeeper-test-").tempdir_in("/dev/shm").unwrap();
    owned(dir.path(), 0o2777, 0);
    dir
}

/// Gives a file or folder this mode, this owner, and the pod's group.
fn owned(path: &Path, mode: u32, owner: u32) {
    chown(path, Some(owner), Some(OWN)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What a pod of the image is started on: a filled embedded store on a volume, a configuration, a stand-in.
struct Pod {
    place: Place,
    volume: TempDir,
    socket: TempDir,
}

impl Pod {
    async fn new(portals: u64) -> Self {
        let place = Place::new(portals, "[settings]\nrotating = true").await;
        let volume = temp_dir();
        // As the kubelet leaves a volume at its first use.
        owned(volume.path(), 0o2775, 0);
        for file in ["store.redb", "store.key"] {
            let moved = volume.path().join(file);
            fs::copy(place.path(file), &moved).unwrap();
            owned(&moved, 0o600, OWN);
        }
        let config = format!(
            "state_dir = \"/var/lib/grantkeeper/state\"\n[app]\nname = \"acme-sync\"\n\
             [store]\nkind = \"file\"\n[store.file]\npath = \"/var/lib/grantkeeper/store.redb\"\n\
             key_file = \"/var/lib/grantkeeper/store.key\"\n[hubspot]\nbase_url = \"{}\"\n\
             [[access]]\nuid = {APP}\nportals = [\"*\"]\nallow = [\"token\"]\n",
            place.standin.url
        );
        fs::write(place.path("pod.toml"), config).unwrap();
        Self { place, volume, socket: empty_dir() }
    }

    /// The program in a container of this pod.
    async fn container(&self, args: &[&str]) -> Container {
        Container::new(args)
            .await
            .mount(&self.place.path("pod.toml"), "/etc/grantkeeper/grantkeeper.toml", "ro")
            .mount(self.volume.path(), "/var/lib/grantkeeper", "rw")
    }

    /// The service, ready.
    async fn serve(&self) -> Running {
        let service = self.container(&["run"]).await;
        let running = service.mount(self.socket.path(), "/run/grantkeeper", "rw").start();
        let socket = self.socket.path().join("grantkeeper.sock");
        eventually("the socket appears", || async {
            assert!(!running.said().contains("runc run failed"), "{}", running.said());
            socket.exists()
        })
        .await;
        eventually("the startup probe succeeds", || async {
            running.exec(&["/usr/bin/grantkeeper", "status", "--ready"]).await.code == 0
        })
        .await;
        running
    }

    /// What the program in another container, of this user in these groups, is told by the service. It sees the
    /// socket's folder read-only, as the app does.
    async fn asked_by(&self, uid: u32, groups: &[u32]) -> (i32, String) {
        let app = Container::new(&["token", "1"]).await.user(uid, groups);
        let ended = app.mount(self.socket.path(), "/run/grantkeeper", "ro").run().await;
        (ended.code, ended.out + &ended.err)
    }
}

#[tokio::test]
async fn the_image_holds_the_program_what_it_loads_and_nothing_to_run_beside_it() {
    let image = image().await;
    let (mut libraries, mut others) = (Vec::new(), Vec::new());
    for file in &image.files {
        let is_library = file.starts_with("lib") || file.starts_with("lib64");
        if is_library { &mut libraries } else { &mut others }.push(file.to_str().unwrap());
    }
    assert_eq!(
        others,
        [
            "etc/group",
            "etc/nsswitch.conf",
            "etc/passwd",
            "etc/ssl/certs/ca-certificates.crt",
            "usr/bin/grantkeeper",
        ]
    );
    let known = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
    let is_known = |library: &&str| known.iter().any(|known| library.ends_with(known));
    assert!(libraries.iter().all(is_known), "{libraries:?}");
    for file in &image.files {
        let metadata = fs::symlink_metadata(image.file(file)).unwrap();
        assert!(metadata.is_file(), "{} is no plain file", file.display());
        assert_eq!(metadata.mode() & 0o7022, 0, "{}: {:o}", file.display(), metadata.mode());
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{}", file.display());
    }
    let process = &image.config["process"];
    assert_eq!((&process["user"]["uid"], &process["user"]["gid"]), (&OWN.into(), &OWN.into()));
    assert_eq!(process["args"], serde_json::json!(["/usr/bin/grantkeeper", "run"]));
}

#[tokio::test]
async fn nothing_can_be_written_to_the_image_even_by_its_owner() {
    let folder = empty_dir();
    let root = |target: &'static str| async {
        let container = Container::new(&["man", target]).await.user(0, &[]);
        container.mount(folder.path(), "/tokens", "rw").run().await
    };
    let refused = root("/usr").await;
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("Read-only file system"), "{}", refused.err);
    let written = root("/tokens").await;
    assert_eq!(written.code, 0, "what is mounted can be written to: {}", written.err);
    assert!(folder.path().join("grantkeeper.1").exists());
}

#[tokio::test]
async fn as_an_init_container_it_leaves_token_files_that_the_apps_group_may_read() {
    let (pod, tokens) = (Pod::new(2).await, empty_dir());
    let args = ["init", "--output-dir", "/tokens", "--mode", "0440", "--wait", "20s"];
    let container = pod.container(&args).await.mount(tokens.path(), "/tokens", "rw");
    let ended = container.run().await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    for portal in ["1", "2"] {
        let file = tokens.path().join(format!("{portal}.token"));
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o440);
        assert_eq!((metadata.uid(), metadata.gid()), (OWN, OWN), "the folder's group is its own");
        let token = fs::read_to_string(&file).unwrap();
        let url = format!("{}/account-info/2026-03/details", pod.place.standin.url);
        let http = reqwest::Client::builder().build().unwrap();
        let details = http.get(url).bearer_auth(token).send().await.unwrap();
        let details: serde_json::Value = details.json().await.unwrap();
        assert_eq!(details["portalId"].to_string(), portal);
    }
    assert_eq!(fs::read_dir(tokens.path()).unwrap().count(), 2, "and nothing else");
}

#[tokio::test]
async fn as_a_sidecar_it_serves_the_app_that_is_named_and_of_the_pods_group_and_nobody_else() {
    let pod = Pod::new(1).await;
    let mut service = pod.serve().await;
    let socket = fs::metadata(pod.socket.path().join("grantkeeper.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid(), socket.gid()), (0o660, OWN, OWN));

    let (code, token) = pod.asked_by(APP, &[OWN]).await;
    assert_eq!(code, 0, "{token}");
    assert!(!token.trim().is_empty());
    let (code, told) = pod.asked_by(APP + 1, &[OWN]).await;
    assert_eq!(code, 77, "another user of the group is not named: {told}");
    let (code, told) = pod.asked_by(APP, &[]).await;
    assert_ne!(code, 0, "without the group the socket is closed: {told}");
    assert!(told.contains("Permission denied"), "{told}");

    assert_eq!(service.terminate().await, Some(0), "{}", service.said());
    assert!(!pod.socket.path().join("grantkeeper.sock").exists());
    let spent = pod.place.standin.sim.report().refreshes;
    let mut again = pod.serve().await;
    assert_eq!(pod.asked_by(APP, &[OWN]).await, (0, token), "the journal outlives the container");
    assert_eq!(pod.place.standin.sim.report().refreshes, spent);
    assert_eq!(again.terminate().await, Some(0), "{}", again.said());
}

/// What `fsGroupChangePolicy: Always` does to a volume at each start, and why the manifests say `OnRootMismatch`.
#[tokio::test]
async fn a_state_folder_that_was_opened_to_the_pods_group_is_refused() {
    let pod = Pod::new(1).await;
    let state = pod.volume.path().join("state");
    fs::create_dir(&state).unwrap();
    owned(&state, 0o2770, OWN);
    let refused = pod.container(&["run"]).await;
    let refused = refused.mount(pod.socket.path(), "/run/grantkeeper", "rw").run().await;
    assert_eq!(refused.code, 77, "{}", refused.err);
    assert!(refused.err.contains("can be written by others"), "{}", refused.err);
}
