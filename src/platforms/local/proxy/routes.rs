//! Routes as the platform states them, and the rules they must keep. Values only: [`super::table`] makes them quick.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

/// The whole of the traffic, in permille. Weights are exact to one of these.
pub const WHOLE_PERMILLE: u16 = 1000;

/// Backends in one set of routes, at most.
pub const MAX_BACKENDS: usize = 16;

/// Match rules in one set of routes, at most: each is looked at for every request.
pub const MAX_MATCHES: usize = 32;

/// Who gets which requests. Asked in this order: `matches`, the cookie of `sticky`, the weights of `split`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Every revision that can be reached, with its weight. Weights sum to 1000, or are all 0: then requests that no
    /// rule claims get 503. A revision of weight 0 can still be reached by a rule, and be mirrored to.
    pub split: Vec<Backend>,
    /// The first rule that fits wins over cookie and weights.
    pub matches: Vec<MatchRule>,
    /// Keep a user on the revision that served them first.
    pub sticky: Option<StickyCookie>,
    /// Send copies of requests to one more revision and forget the answers.
    pub mirror: Option<Mirror>,
}

/// One revision and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The revision's id; counters go by it.
    pub revision: String,
    /// Its share of the split, in permille.
    pub weight: u16,
    /// Its instances. They take turns; one that refuses the connection is passed over. None at all answers 502.
    pub endpoints: Vec<SocketAddr>,
}

/// Sends requests that carry something to a revision, whatever its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchRule {
    /// Where to look.
    pub on: MatchOn,
    /// What to look for.
    pub test: MatchTest,
    /// Where such requests go; one of the split's.
    pub revision: String,
}

/// The part of a request that a rule reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchOn {
    /// A header by name, in any case. If it comes several times, one fitting value is enough.
    Header(String),
    /// A cookie by name; names of cookies mind their case.
    Cookie(String),
}

/// How a value is compared, byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchTest {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// It is there, whatever it says.
    Present,
}

/// A cookie that keeps a user where they are: see [`super::sticky`] for what it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// The cookie's name.
    pub name: String,
    /// How long browsers keep it, to the second, from the first answer on.
    pub ttl: Duration,
}

/// Copies for a revision that should see traffic and answer nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets the copies; one of the split's. Requests that it answers itself are not copied.
    pub revision: String,
    /// How many of the requests are copied.
    pub permille: u16,
}

/// Why routes were refused. Nothing of refused routes comes into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// The weights are neither whole nor nothing.
    #[error("weights sum to {sum} permille; make them sum to 1000, or all 0 to answer 503")]
    Sum {
        /// What they sum to.
        sum: u32,
    },
    /// One revision twice.
    #[error("revision {0:?} is in the split twice; name each once, with all its endpoints")]
    Twice(String),
    /// A rule or the mirror names a revision that cannot be reached.
    #[error("{by} names revision {revision:?}, which is not in the split; add it there, with weight 0 if need be")]
    Unknown {
        /// Who names it.
        by: &'static str,
        /// The name.
        revision: String,
    },
    /// Not a name that HTTP allows.
    #[error("{0:?} is not a valid header or cookie name; use letters, digits and -_ only")]
    Name(String),
    /// A mirror of more than everything.
    #[error("the mirror asks for {0} permille; 1000 is everything")]
    Mirror(u16),
    /// More than the table holds.
    #[error("routes name {found} {what}; at most {limit} are possible")]
    TooMany {
        /// Backends or match rules.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl Routes {
    /// All traffic to one revision.
    pub fn all_to(revision: impl Into<String>, endpoints: Vec<SocketAddr>) -> Self {
        let only = Backend {
            revision: revision.into(),
            weight: WHOLE_PERMILLE,
            endpoints,
        };
        Self {
            split: vec![only],
            ..Self::default()
        }
    }

    /// Checks every rule; the first fault found is returned.
    pub fn validate(&self) -> Result<(), RoutesError> {
        at_most("backends", self.split.len(), MAX_BACKENDS)?;
        at_most("match rules", self.matches.len(), MAX_MATCHES)?;
        let sum = self.split.iter().map(|backend| u32::from(backend.weight)).sum();
        if sum != 0 && sum != u32::from(WHOLE_PERMILLE) {
            return Err(RoutesError::Sum { sum });
        }
        let mut known = BTreeSet::new();
        for backend in &self.split {
            if !known.insert(backend.revision.as_str()) {
                return Err(RoutesError::Twice(backend.revision.clone()));
            }
        }
        let reachable = |by, revision: &String| match known.contains(revision.as_str()) {
            true => Ok(()),
            false => Err(RoutesError::Unknown {
                by,
                revision: revision.clone(),
            }),
        };
        for rule in &self.matches {
            reachable("a match rule", &rule.revision)?;
            let (MatchOn::Header(name) | MatchOn::Cookie(name)) = &rule.on;
            is_name(name)?;
        }
        if let Some(sticky) = &self.sticky {
            is_name(&sticky.name)?;
        }
        if let Some(mirror) = &self.mirror {
            reachable("the mirror", &mirror.revision)?;
            if mirror.permille > WHOLE_PERMILLE {
                return Err(RoutesError::Mirror(mirror.permille));
            }
        }
        Ok(())
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), RoutesError> {
    if found > limit {
        Err(RoutesError::TooMany { what, found, limit })
    } else {
        Ok(())
    }
}

/// Header and cookie names are both RFC 9110 tokens.
fn is_name(name: &str) -> Result<(), RoutesError> {
    HeaderName::from_bytes(name.as_bytes())
        .map(drop)
        .map_err(|_| RoutesError::Name(name.to_owned()))
}

impl MatchTest {
    pub(super) fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(whole) => value == whole.as_bytes(),
            Self::Prefix(start) => value.starts_with(start.as_bytes()),
            Self::Present => true,
        }
    }
}

/// The cookies of a request that have this name, in their order.
pub(super) fn cookies<'a>(headers: &'a http::HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .flat_map(|line: &HeaderValue| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(move |pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}
