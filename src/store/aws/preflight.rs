//! What the IAM policy of these credentials does not allow, found by calls that change nothing: AWS tells whether one
//! may before it looks at what is asked. Knows no records' content.

use super::{
    CURRENT, Inner, PENDING,
    fault::{Cause, Fault},
    take,
};
use crate::store::{Key, StoreError};

impl Inner {
    /// Statements to add to the policy for the service's work.
    pub(super) async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        let listing = self.list().await?;
        let shard = listing.shards.first().copied().map(Key::Shard);
        let Some(key) = shard.or(listing.portals.first().copied().map(Key::Portal)) else {
            // Without a secret to ask about there is nobody to say no.
            return Ok(Vec::new());
        };
        let mut lacking = Vec::new();
        for (action, denied) in [
            ("PutSecretValue", self.may_not_put(key).await),
            ("UpdateSecretVersionStage", self.may_not_move(key).await),
            // Without it every record is read by a call of its own.
            ("BatchGetSecretValue", self.may_not_batch(key).await),
        ] {
            if denied {
                lacking.push(self.statement(action));
            }
        }
        Ok(lacking)
    }

    /// Puts the version in force once more, under its own id: AWS takes that for a call that was made already, and
    /// ignores it. The stage is one that would put nothing in force, should another value be by then.
    async fn may_not_put(&self, key: Key) -> bool {
        let name = self.name(key);
        let request = self.client.get_secret_value().secret_id(&name).version_stage(CURRENT);
        let Ok(answer) = request.send().await else { return false };
        let (text, Some(version)) = take(answer) else { return false };
        let Ok(text) = std::str::from_utf8(&text) else { return false };
        self.pace.turn(1).await;
        let request = self.client.put_secret_value().secret_id(&name).version_stages(PENDING);
        let put = request.client_request_token(version).secret_string(text).send().await;
        put.is_err_and(|error| Fault::of(&error) == Fault(Cause::NotAllowed))
    }

    /// Takes a label off a version that there is not.
    async fn may_not_move(&self, key: Key) -> bool {
        self.pace.turn(1).await;
        let request = self.client.update_secret_version_stage().secret_id(self.name(key));
        let nobody = "0".repeat(32);
        let moved = request.version_stage(PENDING).remove_from_version_id(nobody).send().await;
        moved.is_err_and(|error| Fault::of(&error) == Fault(Cause::NotAllowed))
    }

    async fn may_not_batch(&self, key: Key) -> bool {
        let request = self.client.batch_get_secret_value().secret_id_list(self.name(key));
        request.send().await.is_err_and(|error| Fault::of(&error) == Fault(Cause::NotAllowed))
    }

    fn statement(&self, action: &str) -> String {
        // Which secrets a batch may give is what GetSecretValue allows.
        let resource = match action {
            "BatchGetSecretValue" => "*".to_owned(),
            _ => format!("arn:aws:secretsmanager:*:*:secret:{}/portals/*", self.prefix),
        };
        format!(
            "{{\"Effect\": \"Allow\", \"Action\": \"secretsmanager:{action}\", \"Resource\": \"{resource}\"}}"
        )
    }
}
