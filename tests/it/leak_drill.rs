//! The drill of `docs/leak-drill.md`, by the lines that stand there: the secret has leaked, is rotated, the old one is
//! shown to be dead, and every portal is well. Nobody's request fails meanwhile, and how long it takes is printed.

use std::{fs, path::Path, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use grantkeeper::{
    socket::Client,
    time::{Clock, SystemClock},
};

use crate::support::service::{Ended, Place, eventually};

const PORTALS: u64 = 40;

/// The lines to type, in order.
fn lines() -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/leak-drill.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).filter(|line| !line.is_empty());
    let words = |line: &str| -> Vec<String> {
        let rest = line.strip_prefix("grantkeeper ").unwrap_or_else(|| panic!("{line}"));
        rest.split_whitespace().map(str::to_owned).collect()
    };
    lines.map(words).collect()
}

async fn typed(place: &Place, line: &[String], secret: &str) -> Ended {
    let mut args: Vec<&str> = line.iter().map(String::as_str).collect();
    if args.ends_with(&["client-secret"]) {
        // What a person types at the hidden prompt.
        args.extend(["--from-file", "-"]);
    }
    let ended = place.run_with(&args, secret).await;
    assert_eq!(ended.code, 0, "{line:?}: {}{}", ended.out, ended.err);
    ended
}

/// Asks for every portal's token again and again, until told to stop: how many answers there were. Each is a good one.
async fn an_app(client: Client, stop: CancellationToken) -> u64 {
    let mut answers = 0;
    while !stop.is_cancelled() {
        for number in 1..=PORTALS {
            let target = format!("/v1/portals/{number}/token");
            let answer: Result<serde_json::Value, _> = client.get(&target).await;
            answer.unwrap_or_else(|error| panic!("portal {number}: {error}"));
            answers += 1;
        }
    }
    answers
}

/// How it went.
async fn drill(overlap: Duration) -> String {
    let place = Place::new(PORTALS, "[settings]\nrotating = true\nexpires_in = 30").await;
    let service = place.serve().await;
    service.ready().await;
    let (stop, apps) = (CancellationToken::new(), TaskTracker::new());
    let app = apps.spawn(an_app(Client::new(place.socket()), stop.clone()));
    let lines = lines();
    assert_eq!(lines.len(), 5, "{lines:?}");

    let began = SystemClock.boot();
    typed(&place, &lines[0], "").await;
    let leaked = place.standin.sim.client_secret();
    let new = place.standin.sim.rotate_client_secret(overlap);
    let rotated = typed(&place, &lines[1], new.expose()).await;
    assert!(rotated.err.contains("followed: the running service uses it"), "{}", rotated.err);
    let rotated = SystemClock.boot().since(began);
    if !overlap.is_zero() {
        let looked = typed(&place, &lines[2], "").await;
        assert!(!looked.out.contains("refused"), "it is not dead yet: {}", looked.out);
        place.standin.sim.set_client_secret(new.clone(), Duration::ZERO);
    }
    let looked = typed(&place, &lines[2], "").await;
    let dead = |line: &&str| line.contains("previous") && line.contains("refused");
    assert!(looked.out.lines().any(|line| dead(&line)), "{}", looked.out);
    let checked = typed(&place, &lines[3], "").await;
    let healthy = SystemClock.boot().since(began);
    assert!(!checked.out.contains(leaked.expose()), "{}", checked.out);
    // The service itself is on the new secret: the old one is dead, and all go on being renewed.
    let before = place.standin.sim.report().refreshes;
    eventually("every portal is renewed", async || {
        place.standin.sim.report().refreshes >= before + PORTALS
    })
    .await;
    eventually("every portal is live", async || {
        service.get("/v1/status").await.unwrap()["portals"]["live"] == PORTALS
    })
    .await;
    typed(&place, &lines[4], "").await;
    let over = SystemClock.boot().since(began);
    stop.cancel();
    let answers = app.await.unwrap();
    let told = format!(
        "leak drill, overlap {overlap:?}: rotated after {rotated:.2?}, old one dead and {PORTALS} portals well after \
         {healthy:.2?}, over after {over:.2?}; {answers} requests of an app, all answered"
    );
    assert!(over < Duration::from_secs(60), "{over:?}");
    assert!(answers > PORTALS, "an app was there all the while");
    let looked = typed(&place, &lines[0], "").await;
    assert!(!looked.out.contains("previous"), "{}", looked.out);
    for step in ["staged", "promoted", "retired"] {
        assert!(looked.out.contains(step), "{}", looked.out);
    }
    assert_eq!(service.stop().await, 0);
    told
}

#[tokio::test]
async fn a_leaked_secret_is_rotated_shown_to_be_dead_and_forgotten_with_an_overlap() {
    println!("{}", drill(Duration::from_secs(600)).await);
}

#[tokio::test]
async fn a_leaked_secret_is_rotated_shown_to_be_dead_and_forgotten_after_a_hard_cut_over() {
    println!("{}", drill(Duration::ZERO).await);
}
