//! What is counted (contract section 6). No label holds a secret or a portal.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use super::uninstalls::OUTCOMES;
use crate::incident::Kind;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        #[expect(missing_docs, reason = "label names are documented in the contract")]
        pub struct $name { $(pub $field: &'static str),+ }
    };
}

labels!(/// By result.
    ByResult { result });
labels!(/// By outcome.
    ByOutcome { outcome });
labels!(/// By reason.
    ByReason { reason });
labels!(/// By state.
    ByState { state });
labels!(/// By kind of incident.
    ByKind { kind });
labels!(/// By store, operation and outcome.
    ByStoreCall { store, op, outcome });

/// Deliveries by sink; a sink's name is the operator's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BySink {
    /// The sink's name.
    pub sink: String,
    /// What became of it.
    pub outcome: &'static str,
}

/// Every metric, and the registry they are told from.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is described where it is registered")]
pub struct Metrics {
    registry: Registry,
    pub portals: Family<ByState, Gauge>,
    pub token_requests: Family<ByResult, Counter>,
    pub token_request_duration: Histogram,
    pub socket_refused: Family<ByReason, Counter>,
    pub refreshes: Family<ByOutcome, Counter>,
    pub refresh_duration: Histogram,
    pub refresh_lag: Histogram,
    pub soonest_expiry: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub store_requests: Family<ByStoreCall, Counter>,
    pub rate_limited: Counter,
    pub introspections: Family<ByOutcome, Counter>,
    pub uninstall_events: Family<ByOutcome, Counter>,
    pub webhooks_journal_reads: Family<ByOutcome, Counter>,
    pub incidents_open: Family<ByKind, Gauge>,
    pub alerts: Family<BySink, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("grantkeeper");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let metrics = Self {
            portals: register!("portals", "Portals by state", Family::default()),
            token_requests: register!(
                "token_requests",
                "Requests for an access token by result",
                Family::default()
            ),
            token_request_duration: register!(
                "token_request_duration_seconds",
                "Time to answer a request for an access token",
                Histogram::new([0.000_05, 0.000_2, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0])
            ),
            socket_refused: register!(
                "socket_refused",
                "Connections and requests of users who ask too much",
                Family::default()
            ),
            refreshes: register!("refreshes", "Refreshes by outcome", Family::default()),
            refresh_duration: register!(
                "refresh_duration_seconds",
                "Time a refresh took at HubSpot",
                Histogram::new(exponential_buckets(0.01, 2.0, 11))
            ),
            refresh_lag: register!(
                "refresh_lag_seconds",
                "Time between a request for a portal being queued and having its turn",
                Histogram::new(exponential_buckets(0.01, 4.0, 9))
            ),
            soonest_expiry: register!(
                "soonest_expiry_seconds",
                "Life left of the served token that expires first",
                Gauge::default()
            ),
            store_requests: register!(
                "store_requests",
                "Calls of the credential store by store, operation and outcome",
                Family::default()
            ),
            rate_limited: register!(
                "hubspot_rate_limited",
                "Answers of HubSpot that asked to slow down",
                Counter::default()
            ),
            introspections: register!(
                "introspections",
                "Introspections by outcome",
                Family::default()
            ),
            uninstall_events: register!(
                "uninstall_events",
                "Portals that the webhooks journal says were uninstalled, by what was done about it",
                Family::default()
            ),
            webhooks_journal_reads: register!(
                "webhooks_journal_reads",
                "Readings of the webhooks journal by outcome",
                Family::default()
            ),
            incidents_open: register!(
                "incidents_open",
                "Open incidents by kind",
                Family::default()
            ),
            alerts: register!("alerts", "Alert deliveries by sink and outcome", Family::default()),
            registry: Registry::default(),
        };
        registry.register("build", "What is running", build);
        let metrics = Self { registry, ..metrics };
        metrics.begin_at_zero();
        metrics
    }
}

impl Metrics {
    /// A counter that appears with its first event hides that event from `rate()`.
    fn begin_at_zero(&self) {
        for outcome in ["ok", "grant_refused", "app_refused", "rate_limited", "outage"] {
            self.refreshes.get_or_create(&ByOutcome { outcome }).inc_by(0);
        }
        for outcome in ["active", "inactive", "app_refused"] {
            self.introspections.get_or_create(&ByOutcome { outcome }).inc_by(0);
        }
        for outcome in OUTCOMES {
            self.uninstall_events.get_or_create(&ByOutcome { outcome }).inc_by(0);
        }
        for outcome in ["ok", "nothing", "lost", "unanswered", "not_entitled"] {
            self.webhooks_journal_reads.get_or_create(&ByOutcome { outcome }).inc_by(0);
        }
        for result in ["ok", "forbidden", "unknown_portal", "grant_revoked", "no_token_yet"] {
            self.token_requests.get_or_create(&ByResult { result }).inc_by(0);
        }
        for reason in ["connections", "requests"] {
            self.socket_refused.get_or_create(&ByReason { reason }).inc_by(0);
        }
        for outcome in ["delivered", "failed"] {
            self.alerts.get_or_create(&BySink { sink: "log".to_owned(), outcome }).inc_by(0);
        }
        for kind in Kind::ALL {
            self.incidents_open.get_or_create(&ByKind { kind: kind.as_str() }).set(0);
        }
    }

    /// The exposition text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        encode(&mut text, &self.registry).unwrap_or_default();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_contract_is_told_under_its_name() {
        let metrics = Metrics::default();
        let labels = ByStoreCall { store: "vault", op: "read", outcome: "ok" };
        metrics.store_requests.get_or_create(&labels).inc();
        metrics.portals.get_or_create(&ByState { state: "live" }).set(12);
        metrics.token_requests.get_or_create(&ByResult { result: "ok" }).inc();
        let text = metrics.render();
        for name in [
            "grantkeeper_portals{state=\"live\"} 12",
            "grantkeeper_token_requests_total{result=\"ok\"} 1",
            "grantkeeper_token_request_duration_seconds_bucket",
            "# TYPE grantkeeper_refreshes counter",
            "grantkeeper_refresh_duration_seconds_count",
            "grantkeeper_refresh_lag_seconds_count",
            "grantkeeper_soonest_expiry_seconds",
            "grantkeeper_store_requests_total{store=\"vault\",op=\"read\",outcome=\"ok\"} 1",
            "grantkeeper_hubspot_rate_limited_total 0",
            "# TYPE grantkeeper_introspections counter",
            "# TYPE grantkeeper_incidents_open gauge",
            "# TYPE grantkeeper_alerts counter",
            "grantkeeper_build_info{version=",
        ] {
            assert!(text.contains(name), "{name} is not in:\n{text}");
        }
    }
}
