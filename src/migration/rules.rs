//! What excludes, or needs, what: the one table of it.

use whimbrel_postcopy::source::Policy;

use super::capabilities::{Capabilities, Capability};
use super::parameters::{MultifdCompression, Parameters};

/// Something that a migration can have about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// A capability that is on.
    On(Capability),
    /// Parameter `postcopy-policy` has another value than `manual`.
    PostcopyPolicy,
    /// Parameter `multifd-compression` has another value than `none`.
    MultifdCompression,
    /// Parameter `tls-creds` names a directory.
    Tls,
    /// It goes to, or comes from, a stream.
    Stream,
    /// It goes to, or comes from, a file by its path.
    File,
    /// Parameter `direct-io` is on.
    DirectIo,
    /// It goes over TCP.
    Tcp,
    /// The machine's RAM is shared memory.
    SharedRam,
    /// It goes to, or comes from, another process at an address.
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

/// A way to leave, which a guest that is saved while it stays does not take.
const fn stays(other: Trait) -> Rule {
    excludes(
        Trait::On(Capability::BackgroundSnapshot),
        other,
        "a guest that stays is written once, as it is at one moment, page by page as they are; switch one of them off",
    )
}

/// Every rule. Those about capabilities and parameters alone hold when they are set, all of them
/// when a migration begins.
pub const RULES: &[Rule] = &[
    needs(
        Trait::PostcopyPolicy,
        Trait::On(Capability::PostcopyRam),
        "enable it with 'migrate_set_capability postcopy-ram on' before the migration",
    ),
    excludes(
        Trait::On(Capability::AutoConverge),
        Trait::On(Capability::DirtyLimit),
        "both decide by how much the guest is throttled; switch one of them off",
    ),
    needs(
        Trait::MultifdCompression,
        Trait::On(Capability::Multifd),
        "enable it with 'migrate_set_capability multifd on', or set 'multifd-compression' to none",
    ),
    excludes(
        Trait::On(Capability::Xbzrle),
        Trait::MultifdCompression,
        "a page goes as what has changed of it or compressed, not both; set 'multifd-compression' to none",
    ),
    excludes(
        Trait::File,
        Trait::MultifdCompression,
        "its pages are read one by one; set 'multifd-compression' to none, and compress in a command, as in 'exec:zstd > FILE'",
    ),
    excludes(
        Trait::File,
        Trait::On(Capability::Xbzrle),
        "of changes no page can be read alone; switch it off with 'migrate_set_capability xbzrle off'",
    ),
    excludes(
        Trait::File,
        Trait::PostcopyPolicy,
        "a postcopy needs a way back from the destination, which a file does not have; use tcp:, unix:, or a stream that goes both ways",
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
    stays(Trait::PostcopyPolicy),
    stays(Trait::MultifdCompression),
    stays(Trait::On(Capability::Xbzrle)),
    stays(Trait::On(Capability::AutoConverge)),
    stays(Trait::On(Capability::DirtyLimit)),
    stays(Trait::On(Capability::MappedRam)),
    stays(Trait::On(Capability::IgnoreShared)),
    stays(Trait::On(Capability::ReleaseRam)),
    excludes(
        Trait::Stream,
        Trait::Tls,
        "TLS is for tcp: and unix: only: set 'tls-creds' to nothing, and encrypt in the command, as in 'exec:openssl enc ...'",
    ),
    needs(
        Trait::On(Capability::MappedRam),
        Trait::File,
        "every page has its place there, which only a file has room for; use file:PATH, or switch mapped-ram off",
    ),
    needs(
        Trait::DirectIo,
        Trait::On(Capability::MappedRam),
        "only there do pages stand where a disk can be written and read directly; enable it with \
         'migrate_set_capability mapped-ram on' first",
    ),
    needs(
        Trait::On(Capability::IgnoreShared),
        Trait::SharedRam,
        "memory that no other process can map has to be sent; start the machine with --memory SIZE,shared=on",
    ),
    excludes(
        Trait::On(Capability::IgnoreShared),
        Trait::Tcp,
        "RAM is handed to another process of this host, which takes a unix: address; over tcp: its pages have to be sent",
    ),
    excludes(
        Trait::On(Capability::IgnoreShared),
        Trait::Stream,
        "RAM is handed to another process of this host, which takes a unix: address; into a stream its pages have to be sent",
    ),
    excludes(
        Trait::On(Capability::IgnoreShared),
        Trait::Tls,
        "RAM is handed to another process of this host beside the bytes of a unix: connection; set 'tls-creds' to nothing",
    ),
    excludes(
        Trait::On(Capability::IgnoreShared),
        Trait::PostcopyPolicy,
        "of RAM that is not sent nothing is left to be fetched afterwards; set 'postcopy-policy' to manual",
    ),
    excludes(
        Trait::On(Capability::IgnoreShared),
        Trait::On(Capability::ReleaseRam),
        "RAM is the destination's as it is, and nothing of it is to be given back to the host; switch one of them off",
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
    /// Whether the machine's RAM is shared memory.
    pub shared_ram: bool,
}

/// Where a migration goes to or comes from, as far as rules ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A process of this host, which answers.
    Unix,
    /// Another process, perhaps on another host, which answers.
    Tcp,
    /// A stream on which somebody may answer, or nobody.
    Stream,
    /// A file: nothing comes back, but it takes bytes in any order.
    File,
}

impl Trait {
    /// The name that users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::On(capability) => capability.name(),
            Self::PostcopyPolicy => "postcopy-policy",
            Self::MultifdCompression => "multifd-compression",
            Self::Tls => "tls-creds",
            Self::Stream => "a stream (exec:, fd: or file:)",
            Self::File => "file:",
            Self::DirectIo => "direct-io",
            Self::Tcp => "a tcp: address",
            Self::SharedRam => "shared RAM",
            Self::Peer => "a migration to another process (tcp: or unix:)",
        }
    }

    /// Whether this holds; `None` while nobody has said.
    fn of(self, subject: &Subject<'_>) -> Option<bool> {
        Some(match self {
            Self::On(capability) => subject.capabilities.get(capability),
            Self::PostcopyPolicy => subject.parameters.postcopy_policy != Policy::Manual,
            Self::MultifdCompression => subject.parameters.compression != MultifdCompression::None,
            Self::Tls => subject.parameters.tls_creds.is_some(),
            Self::Stream => return subject.route.map(|route| matches!(route, Route::Stream | Route::File)),
            Self::File => return subject.route.map(|route| route == Route::File),
            Self::DirectIo => subject.parameters.direct_io,
            Self::Tcp => return subject.route.map(|route| route == Route::Tcp),
            Self::SharedRam => subject.shared_ram,
            Self::Peer => return subject.route.map(|route| matches!(route, Route::Unix | Route::Tcp)),
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

    /// Something that can be migrated.
    struct Case {
        capabilities: Capabilities,
        parameters: Parameters,
        route: Route,
        shared_ram: bool,
    }

    impl Case {
        fn new() -> Self {
            let (capabilities, parameters) = (Capabilities::default(), Parameters::default());
            Self { capabilities, parameters, route: Route::Unix, shared_ram: false }
        }

        fn set(&mut self, term: Trait, on: bool) {
            match term {
                Trait::On(capability) => self.capabilities.set(capability, on).unwrap(),
                Trait::PostcopyPolicy => {
                    self.parameters.postcopy_policy = if on { Policy::Stalled } else { Policy::Manual };
                }
                Trait::MultifdCompression => {
                    self.parameters.compression = if on { MultifdCompression::Zstd } else { MultifdCompression::None };
                }
                Trait::Tls => self.parameters.tls_creds = on.then(|| "/pki".into()),
                Trait::Stream | Trait::File => self.route = if on { Route::File } else { Route::Unix },
                Trait::DirectIo => self.parameters.direct_io = on,
                Trait::Peer => self.route = if on { Route::Unix } else { Route::File },
                Trait::Tcp => self.route = if on { Route::Tcp } else { Route::Unix },
                Trait::SharedRam => self.shared_ram = on,
            }
        }

        fn subject(&self) -> Subject<'_> {
            let route = Some(self.route);
            Subject {
                capabilities: self.capabilities,
                parameters: &self.parameters,
                route,
                shared_ram: self.shared_ram,
            }
        }
    }

    /// Each rule is the one that speaks, and only where it should.
    #[test]
    fn every_rule_holds() {
        for rule in RULES {
            for (one, other) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut case = Case::new();
                // What the other rules need of the same things.
                for needed in RULES.iter().filter(|it| it.relation == Relation::Needs) {
                    case.set(needed.other, true);
                }
                case.set(rule.one, one);
                case.set(rule.other, other);
                let subject = case.subject();
                let broken = match rule.relation {
                    Relation::Excludes => one && other,
                    Relation::Needs => one && !other,
                };
                assert_eq!(rule.is_broken(&subject), broken, "{:?} {one} {other}", rule.row());
                let open = Subject { route: None, ..subject };
                let is_route = |it: &Trait| matches!(it, Trait::Stream | Trait::File | Trait::Tcp | Trait::Peer);
                let about_route = [rule.one, rule.other].iter().any(is_route);
                assert_eq!(rule.is_broken(&open), broken && !about_route, "{:?} {one} {other}", rule.row());
            }
        }
    }

    #[test]
    fn what_is_set_at_first_breaks_none() {
        for route in [None, Some(Route::Unix), Some(Route::Tcp), Some(Route::Stream), Some(Route::File)] {
            let case = Case::new();
            check(&Subject { route, ..case.subject() }).unwrap();
        }
    }
}
