//! The story the demo tells, step by step; each step is checked, and one that does not hold ends it.

use std::{collections::BTreeSet, io::Write, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

use super::{
    PATIENCE,
    stage::{PORTALS, Stage, TOKEN_LIFE},
};
use crate::{
    cli::{
        exit::Failure,
        output::{Output, Tone, toned},
    },
    portal::PortalId,
    secret::{AccessToken, Fingerprint},
    socket::{client::AskError, protocol::StatusBody},
};

type Held = Result<String, String>;

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: AccessToken,
    expires_in: u64,
}

/// Tells the story; false if some step did not hold.
pub(super) async fn tell(stage: &mut Stage, keep: bool, output: Output) -> bool {
    let mut teller = Teller { output, step: 0 };
    teller.line(&format!(
        "\n{} keeps a HubSpot app's credentials alive. This is its whole job in a minute, on a\nstand-in for HubSpot where a token lives {TOKEN_LIFE} s instead of 1800 s and refresh tokens rotate.\n",
        toned("Grantkeeper", Tone::Good)
    ));
    let ended = run(stage, keep, &mut teller).await;
    if let Err(why) = ended {
        teller.line(&format!("\n{} {why}", toned("This step did not hold:", Tone::Bad)));
        teller.line(&format!("The service's log:\n{}", tail(&stage.log())));
        return false;
    }
    teller.line(&format!("\n{}\n", toned("Every step held.", Tone::Good)));
    true
}

async fn run(stage: &mut Stage, keep: bool, teller: &mut Teller) -> Result<(), String> {
    teller
        .step(
            "Twelve customers have connected the app; their grants are in an encrypted store",
            async {
                Ok(format!(
                    "portals {} to {}",
                    stage.portals[0],
                    stage.portals[stage.portals.len() - 1]
                ))
            },
        )
        .await?;
    stage.start_service().map_err(|error| error.to_string())?;
    teller
        .step(
            "The service starts: every credential is validated, every token fetched",
            ready(stage),
        )
        .await?;
    let first = read_all(stage).await?;
    teller
        .step("An app asks for tokens over the Unix socket", async {
            Ok(format!("{} tokens, none with less than {} s to live", first.0.len(), first.1))
        })
        .await?;
    teller
        .step(
            "Tokens are renewed before they expire, and rotated refresh tokens are stored first",
            renewed(stage, &first.0),
        )
        .await?;
    teller
        .step(
            "A customer uninstalls the app: one portal, one alert, the others unharmed",
            revoked(stage),
        )
        .await?;
    teller
        .step(
            "The app's secret is changed at HubSpot: one alert for all, no portal is blamed",
            rejected(stage),
        )
        .await?;
    teller
        .step("A wrong new secret is refused before anything changes", wrong_secret(stage))
        .await?;
    teller
        .step(
            "The right one is staged, proven, promoted; the service follows without a restart",
            rotated(stage),
        )
        .await?;
    teller
        .step("The customer connects again: the portal comes back by itself", reconnected(stage))
        .await?;
    teller.step("HubSpot's own ledger agrees", async { ledger(stage) }).await?;
    show_alerts(stage, teller);
    if keep {
        return Ok(());
    }
    let stopped = stage.stop_service().await;
    teller
        .step("The service stops: answers finished, grants stored", async move {
            if stopped {
                Ok("exit 0".to_owned())
            } else {
                Err("it did not end with exit 0".to_owned())
            }
        })
        .await
}

async fn ready(stage: &Stage) -> Held {
    let status = until(stage, |status| status.ready).await?;
    let live = status.portals.get("live").copied().unwrap_or_default();
    if live as u64 == PORTALS {
        Ok(format!("{live} portals live"))
    } else {
        Err(format!("{live} of {PORTALS} live"))
    }
}

async fn renewed(stage: &Stage, first: &BTreeSet<Fingerprint>) -> Held {
    // Longer than any token lives: whatever is served afterwards was renewed.
    let mut served = 0;
    for _ in 0..(TOKEN_LIFE + 1) * 2 {
        let (_, least) = read_all(stage).await?;
        if least == 0 {
            return Err("a token was served in its last second".to_owned());
        }
        served += PORTALS;
        sleep(Duration::from_millis(500)).await;
    }
    let (now, _) = read_all(stage).await?;
    if now.is_disjoint(first) {
        Ok(format!("{served} answers in {} s, all good; every token is a new one", TOKEN_LIFE + 1))
    } else {
        Err("some tokens are still the first ones".to_owned())
    }
}

async fn revoked(stage: &Stage) -> Held {
    let victim = stage.portals[3];
    stage.sim.uninstall(victim);
    let told = alert(stage, "opened", "grant_revoked").await?;
    if told.data.portals != [victim.number()] {
        return Err("the alert names other portals".to_owned());
    }
    match token(stage, victim).await {
        Err(AskError::Refused(problem)) if problem.code == "grant_revoked" => {}
        _ => return Err("its token is still served".to_owned()),
    }
    let status = status(stage).await?;
    let live = status.portals.get("live").copied().unwrap_or_default() as u64;
    if live == PORTALS - 1 {
        Ok(format!("portal {victim}: 410 grant_revoked; {live} still live"))
    } else {
        Err(format!("{live} portals are live"))
    }
}

async fn rejected(stage: &Stage) -> Held {
    // Dropped: the stand-in knows the new secret, and the operator will read it there.
    drop(stage.sim.rotate_client_secret(Duration::ZERO));
    let told = alert(stage, "opened", "app_rejected").await?;
    let status = status(stage).await?;
    let blamed = status.portals.get("revoked").copied().unwrap_or_default();
    if blamed == 1 {
        Ok(format!(
            "{} app_rejected for {} portals; none marked revoked",
            told.data.severity, told.data.portal_count
        ))
    } else {
        Err(format!("{blamed} portals are marked revoked"))
    }
}

async fn wrong_secret(stage: &Stage) -> Held {
    let (code, said) = rotate(stage, "not-the-secret").await?;
    match code {
        Some(78) => Ok("exit 78; the store is as it was".to_owned()),
        code => Err(format!("exit {code:?}: {said}")),
    }
}

async fn rotated(stage: &Stage) -> Held {
    let new = stage.sim.client_secret();
    // exposed: to the standard input of the command that rotates
    let (code, said) = rotate(stage, new.expose()).await?;
    if code != Some(0) {
        return Err(format!("exit {code:?}: {said}"));
    }
    alert(stage, "resolved", "app_rejected").await?;
    let status = until(stage, |status| {
        status.portals.get("live").copied().unwrap_or_default() as u64 == PORTALS - 1
    })
    .await?;
    Ok(format!("app {}; alert resolved", status.app.state))
}

async fn reconnected(stage: &Stage) -> Held {
    let portal = stage.portals[3];
    let (_, token) = stage.sim.install(Some(portal), None);
    // exposed: to the standard input of the command that stores it
    let arguments = ["enroll", "--refresh-token-file", "-"];
    let (code, said) = feed(stage, &arguments, token.expose()).await?;
    if code != Some(0) {
        return Err(format!("exit {code:?}: {said}"));
    }
    alert(stage, "resolved", "grant_revoked").await?;
    self::token(stage, portal).await.map_err(|error| error.to_string())?;
    Ok(format!("portal {portal} is served again; alert resolved"))
}

fn ledger(stage: &Stage) -> Held {
    let report = stage.sim.portals(None, usize::MAX);
    let refreshes: u64 = report.iter().map(|portal| portal.refreshes).sum();
    let overlapping = report.iter().map(|portal| portal.in_flight_max).max().unwrap_or_default();
    if overlapping > 1 {
        return Err(format!("{overlapping} refreshes of one portal were in flight at once"));
    }
    let lost = report.iter().filter(|portal| !portal.good).count();
    if lost > 0 {
        return Err(format!("{lost} portals have lost their grant"));
    }
    Ok(format!("{refreshes} refreshes, never two at once for a portal, no grant lost"))
}

fn show_alerts(stage: &Stage, teller: &Teller) {
    teller.line("\n  What the pager was told (signed webhooks, signatures checked):");
    for alert in stage.pager.alerts() {
        let opened = alert.event.ends_with("opened");
        let (word, tone) = if opened { ("opened  ", Tone::Bad) } else { ("resolved", Tone::Good) };
        let portals = if alert.data.portal_count == 1 {
            format!("portal {}", alert.data.portals.first().copied().unwrap_or_default())
        } else {
            format!("{} portals", alert.data.portal_count)
        };
        teller.line(&format!(
            "    {} {:<8} {:<14} {portals}",
            toned(word, tone),
            alert.data.severity,
            alert.data.kind
        ));
    }
    teller.line("");
}

/// What to try when everything is left running.
pub(super) fn keep(stage: &Stage, output: Output) -> Result<(), Failure> {
    let (config, socket, sim) = (stage.config(), stage.socket(), &stage.sim_url);
    let (config, socket) = (config.display(), socket.display());
    let portal = stage.portals[0];
    output.line(&format!(
        "\
Everything is left running. Try, in another terminal:

  curl -s --unix-socket {socket} http://grantkeeper/v1/portals/{portal}/token
  curl -s --unix-socket {socket} http://grantkeeper/v1/status
  curl -s {sim}/_sim/portals/{portal}
  curl -s -X POST {sim}/_sim/portals/{portal}/uninstall     # a customer leaves

  export GRANTKEEPER_CONFIG={config}
  grantkeeper status; grantkeeper portal list; grantkeeper check

Ctrl-C ends it and cleans up."
    ))
}

// What the steps are made of.

async fn token(stage: &Stage, portal: PortalId) -> Result<TokenAnswer, AskError> {
    stage.service.get(&format!("/v1/portals/{portal}/token")).await
}

/// A token of every portal that has one: their names, and the shortest life among them.
async fn read_all(stage: &Stage) -> Result<(BTreeSet<Fingerprint>, u64), String> {
    let mut names = BTreeSet::new();
    let mut least = u64::MAX;
    for portal in &stage.portals {
        let answer =
            token(stage, *portal).await.map_err(|error| format!("portal {portal}: {error}"))?;
        names.insert(answer.access_token.fingerprint());
        least = least.min(answer.expires_in);
    }
    Ok((names, least))
}

async fn status(stage: &Stage) -> Result<StatusBody, String> {
    stage.service.get("/v1/status").await.map_err(|error| error.to_string())
}

async fn until(stage: &Stage, good: impl Fn(&StatusBody) -> bool) -> Result<StatusBody, String> {
    let asking = async {
        loop {
            if let Ok(status) = status(stage).await
                && good(&status)
            {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        answer = timeout(PATIENCE, asking) => answer.map_err(|_| "it took too long".to_owned()),
        () = stage.service_ended() => Err("the service has ended".to_owned()),
    }
}

async fn alert(stage: &Stage, event: &str, kind: &str) -> Result<super::receiver::Alert, String> {
    let asking = async {
        loop {
            let told = stage
                .pager
                .alerts()
                .into_iter()
                .find(|alert| alert.event.ends_with(event) && alert.data.kind == kind);
            if let Some(alert) = told {
                return alert;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.map_err(|_| format!("no alert: {kind} {event}"))
}

async fn rotate(stage: &Stage, secret: &str) -> Result<(Option<i32>, String), String> {
    feed(stage, &["rotate", "client-secret", "--from-file", "-"], secret).await
}

/// Runs a command with `input` on its standard input; its exit code and what it said.
async fn feed(
    stage: &Stage,
    arguments: &[&str],
    input: &str,
) -> Result<(Option<i32>, String), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut command = stage.grantkeeper(arguments).map_err(told)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(told)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(told)?;
    }
    let ended = timeout(PATIENCE, child.wait_with_output()).await;
    let ended = ended.map_err(|_| "it took too long".to_owned())?.map_err(told)?;
    Ok((ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned()))
}

fn tail(path: &std::path::Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

struct Teller {
    output: Output,
    step: u32,
}

impl Teller {
    fn line(&self, text: &str) {
        // A reader who went away does not end the demo.
        self.output.line(text).ok();
    }

    async fn step(&mut self, what: &str, held: impl Future<Output = Held>) -> Result<(), String> {
        self.step += 1;
        let number = toned(&format!("{:>2}", self.step), Tone::Faint);
        let mut out = anstream::stdout();
        write!(out, "{number}  {what} … ").and_then(|()| out.flush()).ok();
        let detail = held.await;
        match &detail {
            Ok(detail) => self.line(&format!(
                "{}\n      {}",
                toned("✓", Tone::Good),
                toned(detail, Tone::Faint)
            )),
            Err(_) => self.line(&toned("✗", Tone::Bad)),
        }
        detail.map(drop)
    }
}
