//! AWS Secrets Manager, `single` layout: one secret a record. Nobody else imports the AWS SDK.

/// Which secrets, where: plain, already valid values. Credentials come from the SDK's own chain.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Region; the SDK's own chain decides if there is none.
    pub region: Option<String>,
    /// Name prefix of our secrets, without a trailing slash.
    pub prefix: String,
    /// Another endpoint than AWS's own: an emulator or a VPC endpoint.
    pub endpoint_url: Option<String>,
}
