//! The Kubernetes manifests: rendered by a real kubectl, held against the schemas of Kubernetes, and against what they
//! promise; their configuration run on a real OpenBao with the policies and roles that their README sets up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use grantkeeper::{socket::Client, store::vault::VaultStore, time::SystemClock};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    answerer::Answerer,
    openbao::OpenBao,
    pod::Account,
    portal,
    program::{free_port_pair, installed},
    service::{Ended, Place, eventually, finish, secret_file},
    temp_dir,
    yaml::documents,
};

/// Native sidecars are on by default since the first; the other is the newest that the validator knows.
const RELEASES: [&str; 2] = ["1.29", "1.37"];
const OVERLAYS: [&str; 2] = ["sidecar", "init"];

fn manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes").join(name)
}

async fn run(program: &str, args: &[&str], input: &str) -> Ended {
    let mut command = Command::new(installed(program));
    command.args(args).kill_on_drop(true);
    finish(command, input).await
}

/// What `kubectl kustomize` makes of a folder, as text.
async fn rendered(folder: &Path) -> String {
    let ended = run("bin/kubectl", &["kustomize", folder.to_str().unwrap()], "").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.err, "", "kustomize warns");
    ended.out
}

async fn of_kind(overlay: &str, kind: &str) -> Value {
    let folder = manifests("overlays").join(overlay);
    let mut all = documents(&rendered(&folder).await).await.into_iter();
    let found = all.find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("{overlay} has no {kind}"))
}

/// The pod that an overlay runs.
async fn pod(overlay: &str) -> Value {
    let (kind, path) = match overlay {
        "init" => ("CronJob", "/spec/jobTemplate/spec/template/spec"),
        _ => ("StatefulSet", "/spec/template/spec"),
    };
    of_kind(overlay, kind).await.pointer(path).unwrap().clone()
}

/// Both kinds of containers of a pod.
fn containers(pod: &Value) -> Vec<&Value> {
    let kinds = [&pod["initContainers"], &pod["containers"]];
    let all: Vec<&Value> = kinds.into_iter().flat_map(|kind| kind.as_array().unwrap()).collect();
    assert_eq!(all.len(), 2);
    all
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// The configuration that an overlay's pod is given.
async fn configuration(overlay: &str) -> String {
    let map = of_kind(overlay, "ConfigMap").await;
    let mount = pod(overlay).await;
    assert_eq!(named(&mount["volumes"], "config")["configMap"]["name"], map["metadata"]["name"]);
    map["data"]["grantkeeper.toml"].as_str().unwrap().to_owned()
}

async fn validated(text: &str, release: &str) -> Ended {
    let dir = temp_dir();
    let file = dir.path().join("rendered.yaml");
    fs::write(&file, text).unwrap();
    let args = ["--strict", "-k", release, file.to_str().unwrap()];
    run("bin/kubernetes-validate", &args, "").await
}

#[tokio::test]
async fn every_manifest_is_what_kubernetes_takes_and_a_misspelt_field_would_be_found() {
    let mut folders: Vec<PathBuf> =
        OVERLAYS.iter().map(|overlay| manifests("overlays").join(overlay)).collect();
    folders.push(manifests("components/network-policy"));
    for folder in folders {
        let text = rendered(&folder).await;
        for release in RELEASES {
            let ended = validated(&text, release).await;
            assert_eq!(ended.code, 0, "{} {release}: {}", folder.display(), ended.err);
        }
    }
    let text = rendered(&manifests("overlays/sidecar")).await;
    for (field, misspelt) in [
        ("readOnlyRootFilesystem:", "readOnlyRootFileSystem:"),
        ("fsGroupChangePolicy:", "fsGroupChangePolice:"),
        ("expirationSeconds: 600", "expirationSeconds: ten minutes"),
    ] {
        assert!(text.contains(field));
        let ended = validated(&text.replace(field, misspelt), RELEASES[1]).await;
        assert_eq!(ended.code, 1, "{misspelt}: {}", ended.err);
    }
}

#[tokio::test]
async fn an_overlay_takes_another_image_and_the_network_policy_as_the_readme_says() {
    let dir = temp_dir();
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(manifests("")).arg(dir.path().join("kubernetes"));
    assert_eq!(finish(copy, "").await.code, 0);
    for overlay in OVERLAYS {
        let folder = dir.path().join("kubernetes/overlays").join(overlay);
        let file = folder.join("kustomization.yaml");
        let text = fs::read_to_string(&file).unwrap();
        let edited = text
            .replace("registry.example/grantkeeper", "registry.other/gk")
            .replace("# components:\n#   - ", "components:\n  - ");
        fs::write(&file, edited).unwrap();
        let text = rendered(&folder).await;
        assert_eq!(validated(&text, RELEASES[1]).await.code, 0);
        assert!(text.contains("image: registry.other/gk:0.1.0\n"), "{text}");
        let objects = documents(&text).await;
        let policy = objects.iter().find(|object| object["kind"] == "NetworkPolicy").unwrap();
        let mut pods = objects.iter().filter(|object| {
            object.pointer("/metadata/labels") == policy.pointer("/spec/podSelector/matchLabels")
        });
        assert!(pods.next().is_some(), "{overlay}: the policy is for these pods");
        assert_eq!(policy["metadata"]["namespace"], "acme-sync");
    }
}

#[tokio::test]
async fn no_container_runs_as_root_writes_to_its_image_or_may_gain_anything() {
    for overlay in OVERLAYS {
        let pod = pod(overlay).await;
        let whole = &pod["securityContext"];
        assert_eq!(whole["runAsNonRoot"], true, "{overlay}");
        assert_eq!(whole["seccompProfile"], json!({"type": "RuntimeDefault"}), "{overlay}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{overlay}");
        for shared in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(pod[shared].is_null(), "{overlay} {shared}");
        }
        for volume in pod["volumes"].as_array().unwrap() {
            let kind = volume.as_object().unwrap().keys().find(|key| *key != "name").unwrap();
            let harmless = ["configMap", "emptyDir", "projected", "secret"];
            assert!(harmless.contains(&kind.as_str()), "{overlay} {kind}");
        }
        for container in containers(&pod) {
            let (name, mut own) = (&container["name"], container["securityContext"].clone());
            let uid = own["runAsUser"].take();
            assert!(uid.as_u64().unwrap() >= 1000, "{overlay} {name}");
            assert_eq!(own["runAsGroup"].take(), uid, "{overlay} {name}");
            let closed = json!({
                "runAsUser": null,
                "runAsGroup": null,
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(own, closed, "{overlay} {name}");
            let resources = &container["resources"];
            assert!(resources["requests"]["memory"].is_string(), "{overlay} {name}");
            assert!(resources["limits"]["memory"].is_string(), "{overlay} {name}");
        }
        let account = of_kind(overlay, "ServiceAccount").await;
        assert_eq!(account["automountServiceAccountToken"], false);
        assert_eq!(account["metadata"]["name"], pod["serviceAccountName"]);
    }
}

#[tokio::test]
async fn what_is_secret_lies_in_memory_or_is_projected_and_the_app_sees_none_of_it_but_its_own() {
    for (overlay, shared, at) in
        [("sidecar", "socket", "/run/grantkeeper"), ("init", "tokens", "/tokens")]
    {
        let pod = pod(overlay).await;
        assert_eq!(named(&pod["volumes"], shared)["emptyDir"]["medium"], "Memory", "{overlay}");
        let token = named(&pod["volumes"], "vault-token");
        let source = &token["projected"]["sources"][0]["serviceAccountToken"];
        let wanted = json!({"audience": "vault", "expirationSeconds": 600, "path": "token"});
        assert_eq!(*source, wanted, "{overlay}");
        assert_eq!(token["projected"]["defaultMode"], 0o440, "{overlay}");

        let own = named(&pod["initContainers"], "grantkeeper");
        let app = named(&pod["containers"], "app");
        let mounted = named(&own["volumeMounts"], shared);
        assert_eq!((&mounted["mountPath"], &mounted["readOnly"]), (&json!(at), &Value::Null));
        let seen = json!([{"name": shared, "mountPath": at, "readOnly": true}]);
        assert_eq!(app["volumeMounts"], seen, "{overlay}: the app sees this and no more");
    }
    let key = named(&pod("sidecar").await["volumes"], "state-key").clone();
    assert_eq!(key["secret"]["defaultMode"], 0o440, "the service refuses one that all can read");
}

#[tokio::test]
async fn the_app_that_the_configuration_names_is_the_one_that_runs_and_can_reach_the_socket() {
    let (pod, config) = (pod("sidecar").await, configuration("sidecar").await);
    let config: toml::Table = config.parse().unwrap();
    let own = named(&pod["initContainers"], "grantkeeper");
    let app = named(&pod["containers"], "app");
    let uid = |container: &Value| container["securityContext"]["runAsUser"].as_i64();
    assert_eq!(config["access"][0]["uid"].as_integer(), uid(app));
    assert_eq!(uid(own), Some(65532), "the user of the image");
    assert_ne!(uid(own), uid(app), "the service's own user may do everything");
    assert_eq!(config["socket"]["mode"].as_str(), Some("0660"));
    // The folder's group becomes the socket's, and each container is in it.
    assert_eq!(pod["securityContext"]["fsGroup"], 65532);
    let socket = config["socket"]["path"].as_str().unwrap();
    assert_eq!(app["env"], json!([{"name": "GRANTKEEPER_SOCKET", "value": socket}]));
    let folder = named(&app["volumeMounts"], "socket")["mountPath"].as_str().unwrap();
    assert_eq!(Path::new(socket).parent(), Some(Path::new(folder)));

    // Kept through `Always`, the state folder would be opened to the group, and refused: `deploy_image` shows it.
    assert_eq!(pod["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch");
    let state = Path::new(config["state_dir"].as_str().unwrap());
    let volume = named(&own["volumeMounts"], "state")["mountPath"].as_str().unwrap();
    assert_eq!(state.parent(), Some(Path::new(volume)), "a folder of its own in the volume");
}

#[tokio::test]
async fn the_sidecar_is_one_and_starts_before_the_app_and_stops_after_it() {
    let set = of_kind("sidecar", "StatefulSet").await;
    assert_eq!(set["spec"]["replicas"], 1);
    let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["accessModes"], json!(["ReadWriteOncePod"]));
    let pod = pod("sidecar").await;
    let own = named(&pod["initContainers"], "grantkeeper");
    assert_eq!(own["restartPolicy"], "Always");
    let probe = json!(["/usr/bin/grantkeeper", "status", "--ready"]);
    assert_eq!(own["startupProbe"]["exec"]["command"], probe);
    assert_eq!(own["livenessProbe"]["httpGet"], json!({"path": "/livez", "port": "health"}));
    let config: toml::Table = configuration("sidecar").await.parse().unwrap();
    let port = own["ports"][0]["containerPort"].to_string();
    assert!(config["http"]["listen"].as_str().unwrap().ends_with(&format!(":{port}")));
    assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(40), "20 s are the service's");
}

#[tokio::test]
async fn the_configurations_pass_the_programs_own_check_and_hold_no_secret() {
    for overlay in OVERLAYS {
        let dir = temp_dir();
        let file = dir.path().join("grantkeeper.toml");
        fs::write(&file, configuration(overlay).await).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
        check.args(["check", "--offline", "--config"]).arg(&file).env_clear();
        let ended = finish(check, "").await;
        assert_eq!(ended.code, 0, "{overlay}: {}{}", ended.out, ended.err);
        let secrets = documents(&rendered(&manifests("overlays").join(overlay)).await).await;
        assert!(secrets.iter().all(|object| object["kind"] != "Secret"), "{overlay}");
    }
}

/// The words after `command` on the line of the README that begins so.
fn typed(command: &str) -> Vec<String> {
    let readme = fs::read_to_string(manifests("README.md")).unwrap().replace("\\\n", " ");
    let rest = readme.lines().find_map(|line| line.trim_start().strip_prefix(command));
    let rest = rest.unwrap_or_else(|| panic!("the README does not say: {command}"));
    rest.split_whitespace().map(str::to_owned).collect()
}

const POD: Account = Account { namespace: "acme-sync", name: "grantkeeper" };

/// An OpenBao with what the README has a person type, where a pod of the namespace `acme-sync` is known by a cluster
/// that answers for it.
async fn furnished(place: &Place, role: &str) -> (OpenBao, Answerer) {
    let bao = OpenBao::start().await;
    let mut settings = bao.settings("secret");
    "grantkeeper/acme-sync".clone_into(&mut settings.prefix);
    let store = VaultStore::connect(settings, Arc::new(SystemClock)).unwrap();
    place.fill(&store).await;

    let (cluster, config) = POD.vouched_for("vault", 4).await;
    bao.post("sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
    bao.post("auth/kubernetes/config", config).await;

    let policy = typed(&format!("vault policy write {role} ")).remove(0);
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(policy)).unwrap();
    bao.post(&format!("sys/policies/acl/{role}"), json!({ "policy": text })).await;
    let body: serde_json::Map<String, Value> =
        typed(&format!("vault write auth/kubernetes/role/{role} "))
            .iter()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
    assert_eq!(body["token_policies"], role);
    bao.post(&format!("auth/kubernetes/role/{role}"), body.into()).await;
    (bao, cluster)
}

/// An overlay's configuration with nothing changed but where the servers are and where the pod's folders are.
async fn brought_here(overlay: &str, place: &Place, bao: &OpenBao) -> PathBuf {
    let here = place.dir.path().display();
    let text = configuration(overlay)
        .await
        .replace("https://vault.vault.svc:8200", &bao.addr)
        .replace("/var/lib/grantkeeper/", &format!("{here}/"))
        .replace("/etc/grantkeeper/keys/", &format!("{here}/"))
        .replace("/run/grantkeeper/grantkeeper.sock", &format!("{here}/gk.sock"))
        .replace("/var/run/secrets/vault/", &format!("{here}/"))
        .replace("0.0.0.0:9464", &format!("127.0.0.1:{}", free_port_pair()));
    let file = place.path("manifest.toml");
    fs::write(&file, format!("{text}\n[hubspot]\nbase_url = \"{}\"\n", place.standin.url)).unwrap();
    fs::write(place.path("token"), POD.token("vault")).unwrap();
    secret_file(&place.path("state.key"), &STANDARD.encode([7; 32]));
    file
}

fn program(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.arg("--config").arg(config).args(args).env_clear().kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_sidecar_logs_in_as_the_readme_sets_it_up_and_its_policy_is_enough() {
    let place = Place::new(2, "[settings]\nrotating = true").await;
    let (bao, cluster) = furnished(&place, "grantkeeper-agent").await;
    let config = brought_here("sidecar", &place, &bao).await;
    let ended = finish(program(&config, &["check"]), "").await;
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    let review = cluster.requests().remove(0);
    assert!(review.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews"), "{review}");

    let mut service = program(&config, &["run", "--allow-root"]);
    let mut service = service.stderr(Stdio::null()).spawn().unwrap();
    let client = Client::new(place.socket());
    eventually("the pod's configuration serves tokens that HubSpot replaces", || async {
        client.get::<Value>("/v1/portals/1/token").await.is_ok()
    })
    .await;
    eventually("what HubSpot replaced is in the store", || async {
        let told: Value = client.get("/v1/status").await.unwrap();
        told["portals"]["live"] == 2
    })
    .await;
    let record = bao.get("secret", "grantkeeper/acme-sync/portals/1").await;
    let good = place.standin.sim.refresh_token(portal(1)).unwrap();
    // exposed: to compare with what the store holds
    assert_eq!(record["refresh_token"], good.expose());
    service.kill().await.unwrap();
}

#[tokio::test]
async fn the_init_container_logs_in_as_the_readme_sets_it_up_and_one_for_others_ears_is_refused() {
    let place = Place::new(1, "").await;
    let (bao, _cluster) = furnished(&place, "grantkeeper-init").await;
    let config = brought_here("init", &place, &bao).await;
    let out = place.path("tokens");
    fs::create_dir(&out).unwrap();
    let pod = pod("init").await;
    let args = named(&pod["initContainers"], "grantkeeper")["args"].clone();
    let args: Vec<String> = serde_json::from_value(args).unwrap();
    let args: Vec<&str> =
        args.iter().map(|arg| if arg == "/tokens" { out.to_str().unwrap() } else { arg }).collect();
    fs::write(place.path("token"), POD.token("https://kubernetes.default.svc")).unwrap();
    let refused = finish(program(&config, &args), "").await;
    assert_eq!(refused.code, 77, "{}", refused.err);
    assert!(refused.err.contains("refuses the kubernetes login"), "{}", refused.err);
    assert!(fs::read_dir(&out).unwrap().next().is_none());

    fs::write(place.path("token"), POD.token("vault")).unwrap();
    let ended = finish(program(&config, &args), "").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(out.join("1.token").exists());
}
