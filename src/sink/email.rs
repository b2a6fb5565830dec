//! Mail over SMTP: a message a notice, each of an incident in one thread. Encrypted unless the server is this machine.

use std::{fs, path::PathBuf, time::Duration};

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    address::Envelope,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};

use tokio::time::timeout;

use super::{AlertSink, DeliveryError, post};
use crate::incident::{Change, Notice};

/// How the way to the server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// The connection begins in the clear and is encrypted before anything is said: port 587.
    StartTls,
    /// It is encrypted from the start: port 465.
    Tls,
    /// Not at all: to a server on this machine only.
    None,
}

impl Encryption {
    /// The usual port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// One address, or several.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// Who writes.
    pub from: Mailbox,
    /// Who is written to.
    pub to: Vec<Mailbox>,
    /// The server's name.
    pub host: String,
    /// And port.
    pub port: u16,
    /// How the way there is protected.
    pub encryption: Encryption,
    /// Who logs in, and the file with the password.
    pub login: Option<(String, PathBuf)>,
    /// The CA that vouches for the server, beside those of the machine.
    pub ca_file: Option<PathBuf>,
}

/// One address, ready to be written to.
#[derive(Debug)]
pub struct Email {
    name: String,
    settings: Settings,
    to: Mailbox,
}

impl Email {
    /// One for each address: who can't be written to keeps it from nobody else. The first goes by the receiver's name, and
    /// keeps it when others come. Says nothing to the server yet.
    pub fn each(settings: &Settings) -> impl Iterator<Item = Self> {
        settings.to.iter().enumerate().map(|(place, to)| {
            let (called, address) = (&settings.name, &to.email);
            let name = match place {
                0 => called.clone(),
                _ => format!("{called} to {address}"),
            };
            Self { name, settings: settings.clone(), to: to.clone() }
        })
    }

    async fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, DeliveryError> {
        let Settings { host, port, encryption, login, .. } = &self.settings;
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(*port)
            .timeout(Some(post::DEADLINE))
            .hello_name(ClientId::default())
            .tls(match encryption {
                Encryption::StartTls => Tls::Required(self.tls()?),
                Encryption::Tls => Tls::Wrapper(self.tls()?),
                Encryption::None => Tls::None,
            });
        if let Some((user, file)) = login {
            let password = post::read(file).await?;
            builder = builder.credentials(Credentials::new(user.clone(), password.to_string()));
        }
        Ok(builder.build())
    }

    fn tls(&self) -> Result<TlsParameters, DeliveryError> {
        let mut builder = TlsParameters::builder(self.settings.host.clone());
        if let Some(file) = &self.settings.ca_file {
            let unusable = || {
                DeliveryError::retryable(format!("{} is no CA certificate in PEM", file.display()))
            };
            let pem = fs::read(file).map_err(|_| unusable())?;
            builder =
                builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|_| unusable())?);
        }
        builder
            .build()
            .map_err(|_| DeliveryError::retryable("TLS can't be set up: no CA certificates?"))
    }

    fn message(&self, notice: &Notice) -> Result<Message, DeliveryError> {
        let incident = &notice.incident;
        let id = |name: &str| format!("<{name}@grantkeeper.invalid>");
        let thread = id(&notice.as_opened().key());
        let mut builder = Message::builder()
            .from(self.settings.from.clone())
            .subject(format!("[Grantkeeper] {}", notice.headline()))
            .message_id(Some(id(&notice.key())))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.settings.to {
            builder = builder.to(to.clone());
        }
        if notice.change != Change::Opened {
            builder = builder.in_reply_to(thread.clone()).references(thread);
        }
        let by = incident.acknowledged.as_ref().map_or_else(String::new, |by| {
            format!("\nAcknowledged at {} by uid {}.\n", by.at, by.uid)
        });
        let who = if incident.kind.is_about_portals() {
            format!("Concerned: {}.\n", incident.who())
        } else {
            String::new()
        };
        let text = format!("{}{who}{by}", notice.text());
        builder.body(text).map_err(|_| DeliveryError::permanent("the mail can't be put together"))
    }
}

/// One that does not take a mail within this time is tried again.
const PATIENCE: Duration = Duration::from_secs(12);

#[async_trait]
impl AlertSink for Email {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let (transport, message) = (self.transport().await?, self.message(notice)?);
        let (from, to) = (self.settings.from.email.clone(), self.to.email.clone());
        let envelope = Envelope::new(Some(from), vec![to])
            .map_err(|_| DeliveryError::permanent("the mail can't be put together"))?;
        match timeout(PATIENCE, transport.send_raw(&envelope, &message.formatted())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(classed(&error)),
            Err(_) => Err(DeliveryError::retryable("the mail server did not answer in time")),
        }
    }
}

/// What a server says may quote what it was sent: its number alone is told.
fn classed(error: &lettre::transport::smtp::Error) -> DeliveryError {
    let code = error.status().map(|code| code.to_string());
    match code.as_deref() {
        Some(code @ ("530" | "534" | "535" | "538")) => DeliveryError::retryable(format!(
            "the mail server answered {code}: it does not let this user in"
        )),
        Some(code) if error.is_permanent() => DeliveryError::retryable(format!(
            "the mail server answered {code}: it refuses the mail; see whether the addresses are right"
        )),
        Some(code) => DeliveryError::retryable(format!("the mail server answered {code}")),
        None if post::is_of(error, "certificate") || error.is_tls() => DeliveryError::retryable(
            "the mail server's certificate is not one that this machine accepts for that name",
        ),
        None if error.is_timeout() => {
            DeliveryError::retryable("the mail server did not answer in time")
        }
        None if error.is_client() => DeliveryError::retryable(
            "the mail server does not offer what is needed: encryption, or a way to log in",
        ),
        None => DeliveryError::retryable("the mail server can't be reached"),
    }
}
