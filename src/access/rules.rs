//! `[[access]]` as rules: default deny; the service's own user may do everything.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::caller::Caller;
use crate::portal::PortalId;

/// Something a caller may be allowed to do (contract section 2, `allow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Read access tokens.
    Token,
    /// See states, incidents and metrics.
    Status,
    /// Have a token renewed.
    Refresh,
    /// Add a portal.
    Enroll,
    /// End or forget a grant.
    Revoke,
    /// Rotate the client secret.
    Rotate,
    /// Ask whether a webhook is HubSpot's.
    VerifyWebhook,
    /// All of these.
    Admin,
}

impl Right {
    /// Every right, in the order of the contract.
    pub const ALL: [Self; 8] = [
        Self::Token,
        Self::Status,
        Self::Refresh,
        Self::Enroll,
        Self::Revoke,
        Self::Rotate,
        Self::VerifyWebhook,
        Self::Admin,
    ];

    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Status => "status",
            Self::Refresh => "refresh",
            Self::Enroll => "enroll",
            Self::Revoke => "revoke",
            Self::Rotate => "rotate",
            Self::VerifyWebhook => "verify_webhook",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is not a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a right is one of token, status, refresh, enroll, revoke, rotate, verify_webhook, admin")]
pub struct NotARight;

impl FromStr for Right {
    type Err = NotARight;

    fn from_str(word: &str) -> Result<Self, NotARight> {
        Self::ALL.into_iter().find(|right| right.as_str() == word).ok_or(NotARight)
    }
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// One user.
    Uid(u32),
    /// Everybody whose process runs in the group, and every user whom the machine's group database
    /// names as its member.
    Group {
        /// The group.
        gid: u32,
        /// Its members, as of the last reading of the configuration.
        members: BTreeSet<u32>,
    },
}

/// Which portals a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Portals {
    /// All, present and future.
    All,
    /// These.
    These(BTreeSet<PortalId>),
}

impl Portals {
    /// Whether `portal` is one of them.
    #[must_use]
    pub fn contain(&self, portal: PortalId) -> bool {
        match self {
            Self::All => true,
            Self::These(ids) => ids.contains(&portal),
        }
    }
}

/// A rule that is shown names no more portals than these.
const SHOWN: usize = 20;

/// One `[[access]]` entry, names resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub who: Who,
    /// For which portals.
    pub portals: Portals,
    /// What they may do.
    pub allow: BTreeSet<Right>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Uid(uid) => write!(f, "uid {uid}")?,
            Who::Group { gid, members } if members.is_empty() => write!(f, "gid {gid}")?,
            Who::Group { gid, members } => {
                write!(f, "gid {gid} (by the group database uid {})", list(members))?;
            }
        }
        write!(f, ": {} on ", list(&self.allow))?;
        match &self.portals {
            Portals::All => f.write_str("all portals"),
            Portals::These(ids) if ids.len() == 1 => write!(f, "portal {}", list(ids)),
            Portals::These(ids) if ids.len() > SHOWN => {
                write!(f, "{} portals, {} and more", ids.len(), list(ids.iter().take(SHOWN)))
            }
            Portals::These(ids) => write!(f, "portals {}", list(ids)),
        }
    }
}

fn list(items: impl IntoIterator<Item: ToString>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

/// All rules together, and who the service itself is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    own_uid: u32,
    rules: Vec<Rule>,
}

impl Rules {
    /// Rules for a service that runs as `own_uid`.
    #[must_use]
    pub const fn new(own_uid: u32, rules: Vec<Rule>) -> Self {
        Self { own_uid, rules }
    }

    /// Whether `caller` may do `right` to `portal`. Asked before anybody looks whether there is
    /// such a portal, so that a denied caller does not learn it.
    #[must_use]
    pub fn allow(&self, caller: &Caller, right: Right, portal: PortalId) -> bool {
        self.is_own(caller) || self.granting(caller, right).any(|rule| rule.portals.contain(portal))
    }

    /// Whether `caller` may do `right` to some portal at least.
    #[must_use]
    pub fn allow_any(&self, caller: &Caller, right: Right) -> bool {
        self.is_own(caller) || self.granting(caller, right).next().is_some()
    }

    /// The portals to which `caller` may do `right`; none if there are none.
    #[must_use]
    pub fn reach(&self, caller: &Caller, right: Right) -> Option<Portals> {
        if self.allow_all(caller, right) {
            return Some(Portals::All);
        }
        let mut reach = BTreeSet::new();
        for rule in self.granting(caller, right) {
            if let Portals::These(ids) = &rule.portals {
                reach.extend(ids);
            }
        }
        (!reach.is_empty()).then_some(Portals::These(reach))
    }

    /// Whether `caller` may do anything at all.
    #[must_use]
    pub fn know(&self, caller: &Caller) -> bool {
        Right::ALL.into_iter().any(|right| self.allow_any(caller, right))
    }

    /// Whether `caller` may do `right` where it concerns the app or all portals.
    #[must_use]
    pub fn allow_all(&self, caller: &Caller, right: Right) -> bool {
        self.is_own(caller) || self.granting(caller, right).any(|rule| rule.portals == Portals::All)
    }

    /// Whether `caller` is the service's own user.
    #[must_use]
    pub fn is_own(&self, caller: &Caller) -> bool {
        caller.uid() == self.own_uid
    }

    fn granting<'a>(
        &'a self,
        caller: &'a Caller,
        right: Right,
    ) -> impl Iterator<Item = &'a Rule> + 'a {
        self.rules.iter().filter(move |rule| {
            let about_caller = match &rule.who {
                Who::Uid(uid) => caller.uid() == *uid,
                Who::Group { gid, members } => {
                    caller.is_in(*gid) || members.contains(&caller.uid())
                }
            };
            about_caller && (rule.allow.contains(&right) || rule.allow.contains(&Right::Admin))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(number: u64) -> PortalId {
        PortalId::new(number).unwrap()
    }

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller::from_kernel(uid, gid, &[], None)
    }

    fn rule(who: Who, portals: &[u64], allow: &[Right]) -> Rule {
        let portals = if portals.is_empty() {
            Portals::All
        } else {
            Portals::These(portals.iter().map(|n| portal(*n)).collect())
        };
        Rule { who, portals, allow: allow.iter().copied().collect() }
    }

    #[test]
    fn a_rule_says_whom_it_lets_do_what_to_which_portals() {
        use Right::{Status, Token};
        let group =
            |members: &[u32]| Who::Group { gid: 50, members: members.iter().copied().collect() };
        for (rule, said) in [
            (rule(Who::Uid(7), &[], &[Token]), "uid 7: token on all portals"),
            (rule(Who::Uid(7), &[3], &[Token, Status]), "uid 7: token, status on portal 3"),
            (rule(group(&[]), &[3, 4], &[Token]), "gid 50: token on portals 3, 4"),
            (
                rule(group(&[8, 9]), &[], &[Token]),
                "gid 50 (by the group database uid 8, 9): token on all portals",
            ),
        ] {
            assert_eq!(rule.to_string(), said);
        }
        let many: Vec<u64> = (1..=500).collect();
        let said = rule(Who::Uid(7), &many, &[Token]).to_string();
        assert!(
            said.contains("500 portals, 1, 2, 3") && said.ends_with("19, 20 and more"),
            "{said}"
        );
    }

    #[test]
    fn i11_nobody_unnamed_gets_anything() {
        use Right::{Admin, Rotate, Status, Token};
        let rules = Rules::new(
            900,
            vec![
                rule(Who::Uid(1001), &[7], &[Token]),
                rule(Who::Group { gid: 50, members: [1004].into() }, &[], &[Token, Status]),
                rule(Who::Uid(1002), &[], &[Admin]),
            ],
        );
        let rows = [
            (caller(900, 900), Rotate, 7, true),
            (caller(0, 0), Token, 7, false),
            (caller(1001, 1001), Token, 7, true),
            (caller(1001, 1001), Token, 8, false),
            (caller(1001, 1001), Status, 7, false),
            (caller(1003, 50), Token, 8, true),
            (caller(1004, 1004), Status, 8, true),
            (caller(1003, 1003), Token, 8, false),
            (caller(1003, 50), Rotate, 8, false),
            (caller(1002, 1002), Rotate, 9, true),
        ];
        for (who, right, number, expected) in rows {
            assert_eq!(
                rules.allow(&who, right, portal(number)),
                expected,
                "{who} {right} {number}"
            );
        }
    }

    #[test]
    fn i11_a_supplementary_group_counts_as_the_kernel_told_it() {
        let rules = Rules::new(
            900,
            vec![rule(Who::Group { gid: 50, members: [].into() }, &[], &[Right::Token])],
        );
        for (groups, expected) in [(&[][..], false), (&[4, 24][..], false), (&[4, 50][..], true)] {
            let caller = Caller::from_kernel(1001, 1001, groups, None);
            assert_eq!(rules.allow(&caller, Right::Token, portal(7)), expected, "{groups:?}");
        }
    }

    #[test]
    fn i11_without_rules_only_the_service_s_own_user_gets_anything() {
        let rules = Rules::new(900, Vec::new());
        for right in Right::ALL {
            assert!(rules.allow(&caller(900, 1), right, portal(1)));
            assert!(!rules.allow_any(&caller(901, 900), right), "{right}");
        }
    }

    #[test]
    fn the_reach_of_a_right_is_what_all_rules_give_together() {
        let rules = Rules::new(
            900,
            vec![
                rule(Who::Uid(7), &[1, 2], &[Right::Enroll]),
                rule(Who::Uid(7), &[3], &[Right::Admin]),
                rule(Who::Uid(8), &[], &[Right::Enroll]),
            ],
        );
        let these = |ids: &[u64]| Some(Portals::These(ids.iter().map(|id| portal(*id)).collect()));
        assert_eq!(rules.reach(&caller(7, 7), Right::Enroll), these(&[1, 2, 3]));
        assert_eq!(rules.reach(&caller(7, 7), Right::Token), these(&[3]));
        assert_eq!(rules.reach(&caller(8, 8), Right::Enroll), Some(Portals::All));
        assert_eq!(rules.reach(&caller(9, 9), Right::Enroll), None);
        assert_eq!(rules.reach(&caller(900, 1), Right::Enroll), Some(Portals::All));
    }

    #[test]
    fn a_rule_for_some_portals_gives_nothing_that_concerns_them_all() {
        let rules = Rules::new(900, vec![rule(Who::Uid(7), &[1], &[Right::Status])]);
        assert!(rules.allow_any(&caller(7, 7), Right::Status));
        assert!(!rules.allow_all(&caller(7, 7), Right::Status));
    }
}
