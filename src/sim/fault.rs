//! Faults on order: what goes wrong, for which endpoint and portal, how often and how likely.
//! Chooses which one applies to a request; knows no HTTP and does not carry it out.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{api::Endpoint, mint::Mint, refusal::Refusal};
use crate::portal::PortalId;

/// What goes wrong. `before` means that the request was not carried out, `after` that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The connection is reset; nothing was carried out.
    ResetBefore,
    /// The request is carried out, then the connection is reset without an answer.
    ResetAfter,
    /// No answer ever comes; nothing was carried out.
    HangBefore,
    /// The request is carried out and no answer ever comes.
    HangAfter,
    /// Carried out; 200 with an empty body.
    Empty,
    /// Carried out; a whole HTTP message whose JSON stops half way.
    Truncated,
    /// Carried out; the connection ends in the middle of the body.
    Cut,
    /// Carried out; token answers lack everything that v1 did not have in its early years:
    /// `hub_id`, `user_id`, `scopes`, `token_use`.
    Bare,
    /// Carried out at once; the whole answer comes this much later, in milliseconds.
    Late(u32),
    /// Carried out at once; headers at once, the body this much later, in milliseconds.
    Slow(u32),
    /// Not carried out; a refusal of the token endpoint, whatever was asked.
    Refuse(Refusal),
    /// Not carried out; 429 and 477 with HubSpot's own body, 5xx as a page of the edge.
    #[serde(untagged)]
    Http(HttpFault),
}

/// An answer given by HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HttpFault {
    /// HTTP status, 400 to 599.
    #[serde(rename = "http")]
    pub status: u16,
    /// `Retry-After` in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

/// An effect's members, where it is not a word.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    late: Option<u32>,
    slow: Option<u32>,
    refuse: Option<Refusal>,
    http: Option<u16>,
    retry_after: Option<u32>,
}

/// Reads an [`Effect`]. By hand, because a derived one can't say what is wrong with a member.
struct EffectVisitor;

impl<'de> Visitor<'de> for EffectVisitor {
    type Value = Effect;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an effect: one of its words, or one of `late`, `slow`, `refuse`, `http`")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Effect, E> {
        match word {
            "reset_before" => Ok(Effect::ResetBefore),
            "reset_after" => Ok(Effect::ResetAfter),
            "hang_before" => Ok(Effect::HangBefore),
            "hang_after" => Ok(Effect::HangAfter),
            "empty" => Ok(Effect::Empty),
            "truncated" => Ok(Effect::Truncated),
            "cut" => Ok(Effect::Cut),
            "bare" => Ok(Effect::Bare),
            _ => Err(E::custom(
                "an effect is reset_before, reset_after, hang_before, hang_after, empty, \
                 truncated, cut, bare, or has one of the members late, slow, refuse, http",
            )),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Effect, A::Error> {
        match Written::deserialize(MapAccessDeserializer::new(members))? {
            Written {
                late: Some(millis),
                slow: None,
                refuse: None,
                http: None,
                retry_after: None,
            } => Ok(Effect::Late(millis)),
            Written {
                late: None,
                slow: Some(millis),
                refuse: None,
                http: None,
                retry_after: None,
            } => Ok(Effect::Slow(millis)),
            Written {
                late: None,
                slow: None,
                refuse: Some(why),
                http: None,
                retry_after: None,
            } => Ok(Effect::Refuse(why)),
            Written { late: None, slow: None, refuse: None, http: Some(status), retry_after } => {
                if (400..600).contains(&status) {
                    Ok(Effect::Http(HttpFault { status, retry_after }))
                } else {
                    Err(de::Error::custom("a fault's HTTP status is from 400 to 599"))
                }
            }
            _ => Err(de::Error::custom(
                "an effect has one of the members late, slow, refuse, http; \
                 retry_after goes with http",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Effect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EffectVisitor)
    }
}

/// A fault and what it applies to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub effect: Effect,
    /// Only requests of this endpoint; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Only requests of this portal; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<PortalId>,
    /// How many requests it applies to; until cleared by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// How likely it is to apply, from 0 to 1; always by default.
    #[serde(default = "always", deserialize_with = "probability")]
    pub probability: f64,
}

const fn always() -> f64 {
    1.0
}

fn probability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(de::Error::custom("a probability is a number from 0 to 1"))
    }
}

impl Fault {
    /// This effect on every request until cleared.
    #[must_use]
    pub const fn new(effect: Effect) -> Self {
        Self { effect, endpoint: None, portal: None, count: None, probability: 1.0 }
    }

    /// The same, on one endpoint only.
    #[must_use]
    pub const fn on(self, endpoint: Endpoint) -> Self {
        Self { endpoint: Some(endpoint), ..self }
    }

    /// The same, for one portal only.
    #[must_use]
    pub const fn of(self, portal: PortalId) -> Self {
        Self { portal: Some(portal), ..self }
    }

    /// The same, for the next `count` requests only.
    #[must_use]
    pub const fn times(self, count: u32) -> Self {
        Self { count: Some(count), ..self }
    }

    /// The same, for this share of the requests (0 to 1).
    #[must_use]
    pub const fn likely(self, probability: f64) -> Self {
        Self { probability, ..self }
    }

    fn applies_to(&self, endpoint: Endpoint, portal: Option<PortalId>) -> bool {
        self.endpoint.is_none_or(|only| only == endpoint)
            && (self.portal.is_none() || self.portal == portal)
            && self.count != Some(0)
    }
}

/// A fault's name, for clearing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

/// A fault that is set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetFault {
    /// Its name.
    pub id: FaultId,
    /// The fault; `count` is what is left of it.
    pub fault: Fault,
    /// How many requests it has met.
    pub met: u64,
}

/// The faults that are set, oldest first.
#[derive(Debug)]
pub(super) struct Faults {
    set: Vec<SetFault>,
    next: u64,
    dice: Mint,
}

impl Faults {
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { set: Vec::new(), next: 1, dice: Mint::new(seed, "faults") }
    }

    pub(super) fn set(&mut self, fault: Fault) -> FaultId {
        let id = FaultId(self.next);
        self.next += 1;
        self.set.push(SetFault { id, fault, met: 0 });
        id
    }

    /// Whether there was such a fault.
    pub(super) fn clear(&mut self, id: FaultId) -> bool {
        let before = self.set.len();
        self.set.retain(|set| set.id != id);
        self.set.len() < before
    }

    pub(super) fn clear_all(&mut self) {
        self.set.clear();
    }

    pub(super) fn list(&self) -> &[SetFault] {
        &self.set
    }

    /// The effect on this request: that of the oldest fault that applies and that chance favours.
    pub(super) fn draw(&mut self, endpoint: Endpoint, portal: Option<PortalId>) -> Option<Effect> {
        let Self { set, dice, .. } = self;
        let hit = set.iter_mut().find(|set| {
            set.fault.applies_to(endpoint, portal)
                && (set.fault.probability >= 1.0 || dice.chance() < set.fault.probability)
        })?;
        hit.met += 1;
        hit.fault.count = hit.fault.count.map(|left| left - 1);
        let effect = hit.fault.effect;
        set.retain(|set| set.fault.count != Some(0));
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(number: u64) -> PortalId {
        PortalId::new(number).unwrap()
    }

    #[test]
    fn a_fault_meets_only_what_it_was_set_for_and_ends_with_its_count() {
        let mut faults = Faults::new(Some(1));
        faults.set(Fault::new(Effect::Empty).on(Endpoint::Token).of(portal(1)).times(2));
        assert_eq!(faults.draw(Endpoint::Introspect, Some(portal(1))), None);
        assert_eq!(faults.draw(Endpoint::Token, Some(portal(2))), None);
        assert_eq!(faults.draw(Endpoint::Token, None), None);
        for _ in 0..2 {
            assert_eq!(faults.draw(Endpoint::Token, Some(portal(1))), Some(Effect::Empty));
        }
        assert_eq!(faults.draw(Endpoint::Token, Some(portal(1))), None);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn a_likely_fault_meets_about_its_share_and_the_same_requests_under_one_seed() {
        let run = || {
            let mut faults = Faults::new(Some(7));
            faults.set(Fault::new(Effect::Empty).likely(0.25));
            (0..1000).map(|_| faults.draw(Endpoint::Token, None).is_some()).collect::<Vec<_>>()
        };
        let met = run();
        assert_eq!(met, run());
        let share = met.iter().filter(|met| **met).count();
        assert!((200..300).contains(&share), "{share}");
    }

    #[test]
    fn a_fault_is_cleared_by_its_name() {
        let mut faults = Faults::new(None);
        let id = faults.set(Fault::new(Effect::Cut));
        assert!(faults.clear(id));
        assert!(!faults.clear(id));
    }

    #[test]
    fn every_effect_is_read_as_it_is_documented() {
        for (written, effect) in [
            (r#""reset_after""#, Effect::ResetAfter),
            (r#"{"late":250}"#, Effect::Late(250)),
            (r#"{"refuse":"BAD_HUB"}"#, Effect::Refuse(Refusal::BadHub)),
            (r#"{"http":503}"#, Effect::Http(HttpFault { status: 503, retry_after: None })),
            (
                r#"{"http":429,"retry_after":2}"#,
                Effect::Http(HttpFault { status: 429, retry_after: Some(2) }),
            ),
        ] {
            assert_eq!(serde_json::from_str::<Effect>(written).unwrap(), effect, "{written}");
            assert_eq!(serde_json::to_string(&effect).unwrap(), written);
        }
        for (bad, why) in [
            (r#""explode""#, "an effect is reset_before"),
            (r#"{"http":200}"#, "from 400 to 599"),
            (r#"{"http":503,"after":1}"#, "unknown field `after`"),
            (r#"{"late":1,"slow":1}"#, "one of the members"),
            (r#"{"late":1,"retry_after":1}"#, "retry_after goes with http"),
            (r#"{"refuse":"BAD_LUCK"}"#, "unknown variant `BAD_LUCK`"),
            ("7", "expected an effect"),
        ] {
            let error = serde_json::from_str::<Effect>(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        for bad in [r#"{"effect":"cut","probability":2}"#, r#"{"effect":"cut","portal":0}"#] {
            assert!(serde_json::from_str::<Fault>(bad).is_err(), "{bad}");
        }
    }
}
