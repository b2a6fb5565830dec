//! What the IAM policy of these credentials does not allow, found by calls about a secret that there is not: AWS
//! tells whether one may before it looks for what is asked about. Touches no record.

use super::{
    Inner, PENDING,
    fault::{Cause, Fault},
};
use crate::store::StoreError;

/// No portal has this number.
const NOBODY: &str = "portals/0";

impl Inner {
    /// Statements to add to the policy for the service's work.
    pub(super) async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        let mut lacking = Vec::new();
        for (action, denied) in [
            ("PutSecretValue", self.may_not_put().await),
            ("UpdateSecretVersionStage", self.may_not_move().await),
            // Without it every record is read by a call of its own.
            ("BatchGetSecretValue", self.may_not_batch().await),
        ] {
            if denied {
                lacking.push(self.statement(action));
            }
        }
        Ok(lacking)
    }

    fn nobody(&self) -> String {
        format!("{}/{NOBODY}", self.prefix)
    }

    async fn may_not_put(&self) -> bool {
        self.pace.turn(1).await;
        let request = self.client.put_secret_value().secret_id(self.nobody());
        let put = request.version_stages(PENDING).secret_string("{}").send().await;
        put.is_err_and(|error| Fault::of(&error) == Fault(Cause::NotAllowed))
    }

    async fn may_not_move(&self) -> bool {
        self.pace.turn(1).await;
        let request = self.client.update_secret_version_stage().secret_id(self.nobody());
        let nothing = "0".repeat(32);
        let moved = request.version_stage(PENDING).remove_from_version_id(nothing).send().await;
        moved.is_err_and(|error| Fault::of(&error) == Fault(Cause::NotAllowed))
    }

    async fn may_not_batch(&self) -> bool {
        let request = self.client.batch_get_secret_value().secret_id_list(self.nobody());
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
