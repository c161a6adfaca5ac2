//! What excludes, or needs, what: the one table of it.

use whimbrel_postcopy::source::Policy;

use super::capabilities::{Capabilities, Capability};
use super::parameters::Parameters;

/// Something that a migration can have about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// A capability that is on.
    On(Capability),
    /// Parameter `postcopy-policy` has another value than `manual`.
    PostcopyPolicy,
    /// Parameter `tls-creds` names a directory.
    Tls,
    /// It goes to, or comes from, a stream that goes one way.
    OneWay,
    /// It goes to, or comes from, another process, which answers.
    Peer,
}

/// How two of them stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Both at once are refused.
    Excludes,
    /// The first without the second is refused.
    Needs,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    one: Trait,
    relation: Relation,
    other: Trait,
    /// Why, and what to do.
    why: &'static str,
}

const fn excludes(one: Trait, other: Trait, why: &'static str) -> Rule {
    Rule { one, relation: Relation::Excludes, other, why }
}

const fn needs(one: Trait, other: Trait, why: &'static str) -> Rule {
    Rule { one, relation: Relation::Needs, other, why }
}

/// Every rule. Those about capabilities and parameters alone hold when they are set, all of them when a migration begins.
pub const RULES: &[Rule] = &[
    needs(
        Trait::PostcopyPolicy,
        Trait::On(Capability::PostcopyRam),
        "enable it with 'migrate_set_capability postcopy-ram on' before the migration",
    ),
    excludes(
        Trait::OneWay,
        Trait::PostcopyPolicy,
        "a postcopy needs a way back from the destination, which a one-way stream does not have; use tcp: or unix:",
    ),
    excludes(
        Trait::On(Capability::BackgroundSnapshot),
        Trait::Peer,
        "the guest stays here, so it is written to a stream that nobody answers; use file:, exec: or fd:, or switch it off",
    ),
    excludes(
        Trait::On(Capability::BackgroundSnapshot),
        Trait::On(Capability::PauseBeforeSwitchover),
        "a guest that stays is switched over to nobody; switch one of them off",
    ),
    excludes(
        Trait::OneWay,
        Trait::Tls,
        "TLS is for tcp: and unix: only: set 'tls-creds' to nothing, and encrypt in the command, as in 'exec:openssl enc ...'",
    ),
];

/// A rule that is broken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{}", .0.sentence())]
pub struct BrokenRule(Rule);

/// What there is to say of a migration before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What is on.
    pub capabilities: Capabilities,
    /// What is set.
    pub parameters: &'a Parameters,
    /// Where it goes to or comes from; `None` while nobody has said.
    pub route: Option<Route>,
}

/// Where a migration goes to or comes from, as far as rules ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Another process, which answers.
    Peer,
    /// Nothing comes back from there.
    OneWay,
}

impl Trait {
    /// The name that users know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On(capability) => capability.name(),
            Self::PostcopyPolicy => "postcopy-policy",
            Self::Tls => "tls-creds",
            Self::OneWay => "a one-way stream (exec:, fd: or file:)",
            Self::Peer => "a migration to another process (tcp: or unix:)",
        }
    }

    /// Whether this holds; `None` while nobody has said.
    fn of(self, subject: &Subject<'_>) -> Option<bool> {
        Some(match self {
            Self::On(capability) => subject.capabilities.get(capability),
            Self::PostcopyPolicy => subject.parameters.postcopy_policy != Policy::Manual,
            Self::Tls => subject.parameters.tls_creds.is_some(),
            Self::OneWay => return subject.route.map(|route| route == Route::OneWay),
            Self::Peer => return subject.route.map(|route| route == Route::Peer),
        })
    }
}

impl Rule {
    fn is_broken(&self, subject: &Subject<'_>) -> bool {
        match (self.one.of(subject), self.relation, self.other.of(subject)) {
            (Some(true), Relation::Excludes, Some(other)) => other,
            (Some(true), Relation::Needs, Some(other)) => !other,
            _ => false,
        }
    }

    /// For whoever broke it.
    fn sentence(&self) -> String {
        let (one, other) = (self.one.name(), self.other.name());
        match self.relation {
            Relation::Excludes => format!("{one} and {other} exclude each other: {}", self.why),
            Relation::Needs => format!("{one} needs {other}: {}", self.why),
        }
    }

    /// A row of the table in the documentation.
    pub fn row(&self) -> [&'static str; 4] {
        let relation = match self.relation {
            Relation::Excludes => "excludes",
            Relation::Needs => "needs",
        };
        [self.one.name(), relation, self.other.name(), self.why]
    }
}

/// The first rule that is broken.
pub fn check(subject: &Subject<'_>) -> Result<(), BrokenRule> {
    match RULES.iter().find(|rule| rule.is_broken(subject)) {
        Some(rule) => Err(BrokenRule(*rule)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(term: Trait, on: bool, capabilities: &mut Capabilities, parameters: &mut Parameters, route: &mut Route) {
        match term {
            Trait::On(capability) => capabilities.set(capability, on).unwrap(),
            Trait::PostcopyPolicy => {
                parameters.postcopy_policy = if on { Policy::Stalled } else { Policy::Manual };
            }
            Trait::Tls => parameters.tls_creds = on.then(|| "/pki".into()),
            Trait::OneWay => *route = if on { Route::OneWay } else { Route::Peer },
            Trait::Peer => *route = if on { Route::Peer } else { Route::OneWay },
        }
    }

    /// Each rule is the one that speaks, and only where it should.
    #[test]
    fn every_rule_holds() {
        for rule in RULES {
            for (one, other) in [(false, false), (false, true), (true, false), (true, true)] {
                let (mut capabilities, mut parameters) = (Capabilities::default(), Parameters::default());
                let mut route = Route::Peer;
                // What the other rules need of the same things.
                for needed in RULES.iter().filter(|it| it.relation == Relation::Needs) {
                    set(needed.other, true, &mut capabilities, &mut parameters, &mut route);
                }
                set(rule.one, one, &mut capabilities, &mut parameters, &mut route);
                set(rule.other, other, &mut capabilities, &mut parameters, &mut route);
                let subject = Subject { capabilities, parameters: &parameters, route: Some(route) };
                let broken = match rule.relation {
                    Relation::Excludes => one && other,
                    Relation::Needs => one && !other,
                };
                assert_eq!(rule.is_broken(&subject), broken, "{:?} {one} {other}", rule.row());
                let open = Subject { route: None, ..subject };
                let is_route = |it: &Trait| matches!(it, Trait::OneWay | Trait::Peer);
                let about_route = [rule.one, rule.other].iter().any(is_route);
                assert_eq!(rule.is_broken(&open), broken && !about_route, "{:?} {one} {other}", rule.row());
            }
        }
    }

    #[test]
    fn what_is_set_at_first_breaks_none() {
        for route in [None, Some(Route::Peer), Some(Route::OneWay)] {
            let (capabilities, parameters) = (Capabilities::default(), Parameters::default());
            check(&Subject { capabilities, parameters: &parameters, route }).unwrap();
        }
    }
}
