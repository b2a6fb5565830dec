//! Expected against observed: what introspection says of a grant, compared with where it is stored and
//! what the app requires. Pure; used by the service, by `check` and at a strict start.

use crate::{
    lifecycle::Introspection,
    portal::{ClientId, PortalId, Scopes},
};

/// What a grant should be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The portal it is stored under.
    pub portal: PortalId,
    /// The app that holds it.
    pub client_id: &'a ClientId,
    /// Scopes it must have.
    pub required: &'a Scopes,
}

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be, as far as the answer says.
    Good,
    /// Revoked, or never good for this app.
    Inactive,
    /// It belongs to another portal.
    WrongPortal(PortalId),
    /// It was given to another app.
    WrongApp,
    /// It lacks these scopes.
    ScopesMissing(Scopes),
}

impl Expected<'_> {
    /// Compares. What the answer does not say counts as right.
    #[must_use]
    pub fn judge(&self, told: &Introspection) -> Verdict {
        let Introspection::Active { portal, client_id, scopes } = told else {
            return Verdict::Inactive;
        };
        if let Some(other) = portal.filter(|told| *told != self.portal) {
            return Verdict::WrongPortal(other);
        }
        if client_id.as_ref().is_some_and(|told| told != self.client_id) {
            return Verdict::WrongApp;
        }
        let missing = scopes.as_ref().map(|scopes| scopes.missing(self.required));
        match missing.filter(|missing| !missing.is_empty()) {
            Some(missing) => Verdict::ScopesMissing(missing),
            None => Verdict::Good,
        }
    }
}

/// Whose grant an answer speaks of, and with which scopes; none where it is not good, not this app's, or the answer does
/// not say whose.
#[must_use]
pub fn owner(told: Introspection, own: &ClientId) -> Option<(PortalId, Option<Scopes>)> {
    match told {
        Introspection::Active { portal: Some(portal), client_id, scopes }
            if client_id.as_ref().is_none_or(|told| told == own) =>
        {
            Some((portal, scopes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_of_another_app_s_is_nobody_s_here() {
        let (id, own) = (PortalId::new(7).unwrap(), ClientId::parse("own").unwrap());
        let active = |portal, client: Option<&str>| {
            let client_id = client.map(|name| ClientId::parse(name).unwrap());
            Introspection::Active { portal, client_id, scopes: None }
        };
        let own_s = Some((id, None));
        assert_eq!(owner(active(Some(id), Some("own")), &own), own_s);
        assert_eq!(owner(active(Some(id), None), &own), own_s, "older answers don't say");
        assert_eq!(owner(active(Some(id), Some("other")), &own), None);
        assert_eq!(owner(active(None, Some("own")), &own), None);
        assert_eq!(owner(Introspection::Inactive, &own), None);
    }

    #[test]
    fn a_grant_is_judged_by_what_the_answer_says_and_by_nothing_else() {
        let id = |n| PortalId::new(n).unwrap();
        let app = |name: &str| ClientId::parse(name).unwrap();
        let (own, required) = (app("own"), Scopes::from_iter(["oauth", "crm"]));
        let expected = Expected { portal: id(7), client_id: &own, required: &required };
        let active = |portal, client_id, scopes: Option<&[&str]>| Introspection::Active {
            portal,
            client_id,
            scopes: scopes.map(|scopes| scopes.iter().copied().collect()),
        };
        let rows = [
            (Introspection::Inactive, Verdict::Inactive),
            (active(None, None, None), Verdict::Good),
            (active(Some(id(7)), Some(own.clone()), Some(&["crm", "oauth", "x"])), Verdict::Good),
            (active(Some(id(8)), Some(own.clone()), None), Verdict::WrongPortal(id(8))),
            (active(Some(id(7)), Some(app("other")), None), Verdict::WrongApp),
            (
                active(Some(id(7)), None, Some(&["oauth"])),
                Verdict::ScopesMissing(Scopes::from_iter(["crm"])),
            ),
        ];
        for (told, verdict) in rows {
            assert_eq!(expected.judge(&told), verdict, "{told:?}");
        }
    }
}
