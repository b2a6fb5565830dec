//! The log as a sink: always there, so that no incident depends on a receiver being up.

use async_trait::async_trait;

use super::{AlertSink, DeliveryError};
use crate::incident::{Change, Notice, Severity};

/// Writes each notice as one structured log line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

#[async_trait]
impl AlertSink for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let incident = &notice.incident;
        let numbers: Vec<_> = incident.portals.iter().map(|id| id.number()).collect();
        macro_rules! tell {
            ($level:ident) => {{
                let what = notice.change.in_words();
                tracing::$level!(
                    incident = %incident.incident_id,
                    kind = incident.kind.as_str(),
                    severity = incident.severity.as_str(),
                    portal_count = incident.portal_count,
                    portals = ?numbers,
                    action = incident.action,
                    "incident {what}: {}",
                    incident.summary
                )
            }};
        }
        match (notice.change, incident.severity) {
            (Change::Resolved, _) => tracing::info!(
                incident = %incident.incident_id,
                kind = incident.kind.as_str(),
                portals = ?numbers,
                since = %incident.since,
                "incident resolved"
            ),
            (Change::Acknowledged, _) => tracing::info!(
                incident = %incident.incident_id,
                kind = incident.kind.as_str(),
                uid = incident.acknowledged.as_ref().map(|by| by.uid),
                "incident acknowledged"
            ),
            (_, Severity::Critical) => tell!(error),
            (_, Severity::Warning) => tell!(warn),
            (_, Severity::Info) => tell!(info),
        }
        Ok(())
    }
}
