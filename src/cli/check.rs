//! `grantkeeper check`.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, Tone, table, tone_of, toned},
    setting,
};
use crate::{
    access::Rule,
    config::{Config, StoreSettings},
    daemon,
    engine::{self, survey},
    hubspot::prove,
    journal::{self, Recovered, Trail},
    lifecycle::{Budget, Introspection, Refusal, budget::USUAL_LIFE},
    portal::PortalId,
    store::{Layout, StoreError, aws::cost::Cost, layout},
    validate::{Expected, Verdict},
};

/// Check configuration, store, the app's client pair and every grant. Spends nothing, needs no
/// service, changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is the worst finding's: 0 all good, 4 a grant needs a person, 75 try again,
77 the store refuses, 78 configuration or client pair invalid.")]
pub(super) struct Check {
    /// Look at the configuration file alone
    #[arg(long)]
    offline: bool,
}

/// More records that can't be had for one reason are told together.
const TOLD_SINGLY: usize = 5;

/// One line of the result.
#[derive(Debug, Serialize)]
struct Finding {
    subject: String,
    result: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    findings: Vec<Finding>,
}

impl Check {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<ExitCode, Failure> {
        let config = setting::config(global)?;
        let mut findings = vec![Finding::good(
            "configuration",
            setting::config_path(global).display().to_string(),
        )];
        findings
            .extend(config.warnings.iter().map(|warning| Finding::note("configuration", warning)));
        findings.extend(callers(&config));
        if !self.offline {
            examine(&config, &mut findings).await;
        }
        let worst = findings.iter().filter_map(|finding| finding.exit);
        let worst = worst.max_by_key(|exit| exit.gravity());
        let report = Report { good: worst.is_none(), findings };
        output.answer(&report, show)?;
        Ok(worst.map_or(ExitCode::SUCCESS, Into::into))
    }
}

/// Who may do what at the socket.
fn callers(config: &Config) -> Vec<Finding> {
    let rule = |rule: &Rule| Finding::good("access", rule.to_string());
    let mut rules: Vec<_> = config.access.iter().map(rule).collect();
    if rules.is_empty() {
        let nobody = "no [[access]]: nobody but the service's own user gets anything";
        rules.push(Finding::note("access", nobody));
    }
    rules
}

async fn examine(config: &Config, findings: &mut Vec<Finding>) {
    let mut recovered = Recovered::default();
    if let Some(state) = &config.state {
        let looked = journal::look_at_state(state, &config.app.name).await;
        findings.push(match looked {
            Ok((what, found)) => {
                recovered = found;
                Finding::good("journal", format!("{}: {what}", state.dir.display()))
            }
            Err(error) => Finding::bad("journal", error.into()),
        });
    } else {
        findings.push(Finding::note("journal", "none: without a state_dir, a kill in mid-refresh can lose a grant, and a restart refreshes every portal anew"));
    }
    let world = match daemon::open_world(config).await {
        Ok(world) => world,
        Err(error) => return findings.push(Finding::bad("set-up", error.into())),
    };
    if let Err(error) = world.store.check().await {
        return findings.push(Finding::bad("store", error.into()));
    }
    findings.push(Finding::good("store", format!("{} can be used", world.store.kind())));
    match world.store.lacks().await {
        Ok(lines) => findings.extend(lines.iter().map(|line| lacking(line))),
        Err(error) => findings.push(Finding::bad("policy", error.into())),
    }
    let loaded = match engine::load(&*world.store).await {
        Ok(loaded) => loaded,
        Err(error) => return findings.push(Finding::bad("records", error.into())),
    };
    findings.push(Finding::good("records", format!("portals stored: {}", loaded.portals.len())));
    for stray in &loaded.strays {
        let what = format!("a record named {stray:?} is ignored: a portal id is digits only");
        findings.push(Finding::note("records", &what));
    }
    findings.extend(world.store.remarks().iter().map(|remark| Finding::note("records", remark)));
    let sample = loaded.portals.iter().find_map(|(_, grant)| grant.as_ref().ok());
    let sample = sample.map(|grant| grant.refresh_token.clone());
    if let Err(refusal) = prove(&*world.endpoint, &loaded.pair, sample).await {
        findings.push(Finding::bad("client pair", Failure::from(&refusal)));
        return;
    }
    findings.push(Finding::good("client pair", "HubSpot accepts it".to_owned()));
    if let Some(skew) = world.endpoint.clock_skew() {
        let what = format!(
            "this machine's clock is {} s {} HubSpot's; set it right (NTP): times in logs, alerts and answers are off, token life is not",
            skew.as_secs().unsigned_abs(),
            if skew.is_negative() { "behind" } else { "ahead of" },
        );
        findings.push(Finding::note("clock", &what));
    }
    let rate = config.hubspot.max_refreshes_per_second;
    if let StoreSettings::Aws(_, layout) = &config.store {
        findings.extend(costs(*layout, loaded.portals.len()));
    }
    let life = recovered.token_life().unwrap_or(USUAL_LIFE);
    findings.push(budget(config, loaded.portals.len(), life));
    let told = survey(&world, &loaded, &recovered, false, rate).await;
    let is_paused =
        |portal| recovered.trails.get(&portal).is_some_and(|trail: &Trail| trail.paused);
    let mut grants: Vec<_> = told
        .into_iter()
        .map(|(portal, told)| {
            let expected = Expected {
                portal,
                client_id: &loaded.pair.client_id,
                required: &config.app.required_scopes,
            };
            let finding = match judge(&expected, &told) {
                good if good.exit.is_none() && is_paused(portal) => {
                    Finding::note(&good.subject, "good, and paused by an operator")
                }
                other => other,
            };
            (portal, finding)
        })
        .collect();
    let mut unread: BTreeMap<String, Vec<(PortalId, StoreError)>> = BTreeMap::new();
    for (portal, grant) in loaded.portals {
        if let Err(error) = grant {
            unread.entry(error.hint.clone()).or_default().push((portal, error));
        }
    }
    for same in unread.into_values() {
        grants.extend(one_cause(same));
    }
    grants.sort_by_key(|(portal, _)| *portal);
    findings.extend(grants.into_iter().map(|(_, finding)| finding));
}

/// Records that can't be had for one and the same reason: a line each where they are few.
fn one_cause(mut same: Vec<(PortalId, StoreError)>) -> Vec<(PortalId, Finding)> {
    let count = same.len();
    if count <= TOLD_SINGLY {
        let bad = |(portal, error): (PortalId, StoreError)| {
            (portal, Finding::bad(&subject(portal), error.into()))
        };
        return same.into_iter().map(bad).collect();
    }
    let (portal, error) = same.swap_remove(0);
    let mut finding = Finding::bad(&format!("{count} portals"), error.into());
    finding.detail = format!("one of them: {}", finding.detail);
    vec![(portal, finding)]
}

/// A right that the service needs and this login does not have.
fn lacking(line: &str) -> Finding {
    let what = "the policy of this login does not allow what `grantkeeper run` does";
    let hint = format!("Add: {line}");
    Finding::bad("policy", Failure::new(Exit::Refused, "store_denied", what, hint))
}

/// What the layout in use costs, and what the other one would.
fn costs(layout: Layout, portals: usize) -> [Finding; 2] {
    let other = match layout {
        Layout::Single => Layout::Packed(layout::SHARDS),
        Layout::Packed(_) => Layout::Single,
    };
    let finding = |what: &str, layout| Finding {
        result: "note",
        ..Finding::good("cost", format!("{what}{}", Cost::of(portals, layout)))
    };
    [finding("", layout), finding("the other layout would be ", other)]
}

/// Whether the configured rate keeps as many portals warm as there are.
fn budget(config: &Config, portals: usize, life: Duration) -> Finding {
    let per_second = config.hubspot.max_refreshes_per_second;
    let at = config.refresh.at;
    let budget =
        Budget { per_second, ceiling: per_second, calm: true, portals, recent: portals, life, at };
    if portals <= budget.carries() {
        return Finding::good("budget", budget.to_string());
    }
    Finding::note("budget", &budget.to_string())
}

/// What was told of one grant, as a finding.
fn judge(expected: &Expected<'_>, told: &Result<Introspection, Refusal>) -> Finding {
    let subject = subject(expected.portal);
    let needs = |detail: String, hint: &str| {
        Finding::bad(&subject, Failure::new(Exit::NeedsPerson, "grant", detail, hint))
    };
    let told = match told {
        Ok(told) => told,
        Err(refusal) => return Finding::bad(&subject, Failure::from(refusal)),
    };
    match expected.judge(told) {
        Verdict::Good => Finding::good(&subject, "good".to_owned()),
        Verdict::Inactive => needs(
            "revoked, or never good for this app".to_owned(),
            "Ask the customer to connect the app again, then `grantkeeper enroll`.",
        ),
        Verdict::WrongPortal(other) => needs(
            format!("the stored token belongs to portal {other}"),
            "Put each portal's token into its own record.",
        ),
        Verdict::WrongApp => needs(
            "the stored token belongs to another app".to_owned(),
            "Check which app's credentials stand in the store.",
        ),
        Verdict::ScopesMissing(missing) => needs(
            format!("scopes missing: {missing}"),
            "Have the customer connect again with the scopes the app requires today.",
        ),
    }
}

fn subject(portal: PortalId) -> String {
    format!("portal {portal}")
}

impl Finding {
    fn good(subject: &str, detail: String) -> Self {
        Self { subject: subject.to_owned(), result: "ok", detail, hint: None, exit: None }
    }

    fn note(subject: &str, detail: &str) -> Self {
        let detail = detail.to_owned();
        Self { subject: subject.to_owned(), result: "note", detail, hint: None, exit: None }
    }

    fn bad(subject: &str, failure: Failure) -> Self {
        let cause = failure.cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        Self {
            subject: subject.to_owned(),
            result: "bad",
            detail: failure.message + &cause,
            hint: Some(failure.hint),
            exit: Some(failure.exit),
        }
    }
}

fn show(report: &Report) -> String {
    let mut text = table(
        &["", "", ""],
        report.findings.iter().map(|finding| {
            let result = toned(finding.result, tone_of(finding.result));
            vec![result, finding.subject.clone(), finding.detail.clone()]
        }),
    );
    for finding in &report.findings {
        if let Some(hint) = &finding.hint {
            let label = toned("fix:", Tone::Good);
            text += &format!("{label} {}: {hint}\n", finding.subject);
        }
    }
    text.trim_start_matches('\n').to_owned()
}
